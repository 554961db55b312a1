//! What a component is given for its imports: the broker's types, and stand-ins for the WASI interfaces that toolchains insist on.
//! Whatever has no stand-in traps with the name of what was called. No file, socket or process, ever.

use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, Linker, LinkerInstance, ResourceType, Val};
use wasmtime::{Result, StoreContextMut, bail};

use super::guest_output::Stream;
use super::guest_state::GuestState;

// Packages of WASI 0.2 whose interfaces a component may import.
const PACKAGES: [&str; 8] = [
    "cli",
    "clocks",
    "config",
    "filesystem",
    "http",
    "io",
    "random",
    "sockets",
];

// What a guest may ask for in one call; longer answers are cut by nobody, so the call traps.
const RANDOM_BYTES_MAX: u64 = 64 << 10;

/// The one host type behind all WASI resources. Their number says what they are.
struct Stub;

const STDIN: u32 = 0;
const STDOUT: u32 = 1;
const STDERR: u32 = 2;
const POLLABLE: u32 = 3;

/// Gives `component` everything it imports.
///
/// # Errors
///
/// `Err(Ok(names))`: imports that no plugin may have. `Err(Err(_))`: wasmtime could not take a definition.
pub(super) fn link(
    linker: &mut Linker<GuestState>,
    component: &Component,
) -> std::result::Result<(), std::result::Result<Vec<String>, wasmtime::Error>> {
    let engine = component.engine().clone();
    let ty = component.component_type();
    let mut forbidden = Vec::new();
    for (name, import) in ty.imports(&engine) {
        if is_own_types(name) {
            continue;
        }
        let (Some(interface), ComponentItem::ComponentInstance(instance)) =
            (interface(name), import.ty)
        else {
            forbidden.push(name.to_owned());
            continue;
        };
        // Defined under the very name and version the component asks for; two versions of one interface get
        // the same definitions.
        let mut defined = linker.instance(name).map_err(Err)?;
        for (item, export) in instance.exports(&engine) {
            define(&mut defined, interface, item, &export.ty).map_err(Err)?;
        }
    }
    if forbidden.is_empty() {
        Ok(())
    } else {
        Err(Ok(forbidden))
    }
}

// The interface that only holds types; there is nothing to give.
fn is_own_types(name: &str) -> bool {
    name.strip_prefix("tidegate:plugin/types@")
        .is_some_and(|version| version.starts_with("0.1."))
}

// `wasi:cli/environment@0.2.6` → `cli/environment`.
fn interface(name: &str) -> Option<&str> {
    let (interface, version) = name.strip_prefix("wasi:")?.split_once('@')?;
    let (package, _) = interface.split_once('/')?;
    (PACKAGES.contains(&package) && version.starts_with("0.2.")).then_some(interface)
}

fn define(
    instance: &mut LinkerInstance<'_, GuestState>,
    interface: &str,
    item: &str,
    ty: &ComponentItem,
) -> Result<()> {
    match ty {
        ComponentItem::ComponentFunc(_) => match stub(interface, item) {
            Some(stub) => instance.func_new(item, move |mut store, _, arguments, results| {
                let reps = reps(&mut store, arguments)?;
                let answer = stub(store, &reps, arguments)?;
                if let (Some(result), Some(answer)) = (results.first_mut(), answer) {
                    *result = answer;
                }
                Ok(())
            }),
            None => {
                let called = format!("wasi:{interface}#{item}");
                instance.func_new(item, move |_, _, _, _| {
                    bail!("the plugin called {called}; plugins have no files, network, processes or terminal")
                })
            }
        },
        ComponentItem::Resource(_) => {
            instance.resource(item, ResourceType::host::<Stub>(), |_, _| Ok(()))
        }
        _ => Ok(()),
    }
}

// Takes every resource among the arguments out of the store's tables, which must be done once for each, and
// says what it stands for.
fn reps(store: &mut StoreContextMut<'_, GuestState>, arguments: &[Val]) -> Result<Vec<u32>> {
    let mut reps = Vec::new();
    for argument in arguments {
        match argument {
            Val::Resource(resource) => {
                reps.push(resource.try_into_resource::<Stub>(&mut *store)?.rep());
            }
            Val::List(items) if matches!(items.first(), Some(Val::Resource(_))) => {
                reps.extend(self::reps(store, items)?);
            }
            _ => {}
        }
    }
    Ok(reps)
}

type StubFn = fn(StoreContextMut<'_, GuestState>, &[u32], &[Val]) -> Result<Option<Val>>;

// One long table: what the start-up code of Rust, C, Go, Python and JavaScript guests calls, and what costs
// nothing to answer.
fn stub(interface: &str, function: &str) -> Option<StubFn> {
    Some(match (interface, function) {
        ("cli/environment", "get-environment" | "get-arguments")
        | ("filesystem/preopens", "get-directories") => |_, _, _| Ok(Some(Val::List(Vec::new()))),
        ("cli/environment", "initial-cwd")
        | ("cli/terminal-stdin", "get-terminal-stdin")
        | ("cli/terminal-stdout", "get-terminal-stdout")
        | ("cli/terminal-stderr", "get-terminal-stderr")
        | ("filesystem/types", "filesystem-error-code") => |_, _, _| Ok(Some(Val::Option(None))),
        ("cli/exit", "exit" | "exit-with-code") => |_, _, _| bail!("the plugin called exit"),
        ("cli/stdin", "get-stdin") => |store, _, _| resource(store, STDIN),
        ("cli/stdout", "get-stdout") => |store, _, _| resource(store, STDOUT),
        ("cli/stderr", "get-stderr") => |store, _, _| resource(store, STDERR),
        ("io/streams", "[method]output-stream.check-write") => {
            |_, _, _| ok(Some(Val::U64(64 << 10)))
        }
        (
            "io/streams",
            "[method]output-stream.write" | "[method]output-stream.blocking-write-and-flush",
        ) => write,
        (
            "io/streams",
            "[method]output-stream.flush"
            | "[method]output-stream.blocking-flush"
            | "[method]output-stream.write-zeroes"
            | "[method]output-stream.blocking-write-zeroes-and-flush",
        ) => |_, _, _| ok(None),
        (
            "io/streams",
            "[method]input-stream.read"
            | "[method]input-stream.blocking-read"
            | "[method]input-stream.skip"
            | "[method]input-stream.blocking-skip",
        ) => |_, _, _| {
            Ok(Some(Val::Result(Err(Some(Box::new(Val::Variant(
                "closed".into(),
                None,
            )))))))
        },
        ("io/streams", "[method]output-stream.subscribe" | "[method]input-stream.subscribe")
        | ("clocks/monotonic-clock", "subscribe-instant" | "subscribe-duration") => {
            |store, _, _| resource(store, POLLABLE)
        }
        ("io/error", "[method]error.to-debug-string") => {
            |_, _, _| Ok(Some(Val::String(String::new())))
        }
        ("io/poll", "[method]pollable.ready") => |_, _, _| Ok(Some(Val::Bool(true))),
        ("io/poll", "[method]pollable.block") => |_, _, _| Ok(None),
        // Everything is ready at once: nobody sleeps here.
        ("io/poll", "poll") => |_, reps, _| {
            Ok(Some(Val::List(
                (0..).map(Val::U32).take(reps.len()).collect(),
            )))
        },
        ("clocks/monotonic-clock", "now") => {
            |mut store, _, _| Ok(Some(Val::U64(store.data_mut().wasi.monotonic_ns())))
        }
        ("clocks/monotonic-clock", "resolution") => |_, _, _| Ok(Some(Val::U64(1))),
        ("clocks/wall-clock", "now") => {
            |mut store, _, _| Ok(Some(datetime(store.data_mut().wasi.wall_clock())))
        }
        ("clocks/wall-clock", "resolution") => |_, _, _| Ok(Some(datetime((0, 1)))),
        ("random/random", "get-random-u64") | ("random/insecure", "get-insecure-random-u64") => {
            |mut store, _, _| Ok(Some(Val::U64(store.data_mut().wasi.random())))
        }
        ("random/random", "get-random-bytes")
        | ("random/insecure", "get-insecure-random-bytes") => random_bytes,
        ("random/insecure-seed", "insecure-seed") => |mut store, _, _| {
            let wasi = &mut store.data_mut().wasi;
            Ok(Some(Val::Tuple(vec![
                Val::U64(wasi.random()),
                Val::U64(wasi.random()),
            ])))
        },
        _ => return None,
    })
}

fn ok(value: Option<Val>) -> Result<Option<Val>> {
    Ok(Some(Val::Result(Ok(value.map(Box::new)))))
}

fn resource(store: StoreContextMut<'_, GuestState>, rep: u32) -> Result<Option<Val>> {
    let resource = wasmtime::component::Resource::<Stub>::new_own(rep);
    Ok(Some(Val::Resource(resource.try_into_resource_any(store)?)))
}

fn datetime((seconds, nanoseconds): (u64, u32)) -> Val {
    Val::Record(vec![
        ("seconds".into(), Val::U64(seconds)),
        ("nanoseconds".into(), Val::U32(nanoseconds)),
    ])
}

fn write(
    mut store: StoreContextMut<'_, GuestState>,
    reps: &[u32],
    arguments: &[Val],
) -> Result<Option<Val>> {
    let stream = match reps.first() {
        Some(&STDOUT) => Stream::Stdout,
        Some(&STDERR) => Stream::Stderr,
        _ => return ok(None),
    };
    if let Some(Val::List(bytes)) = arguments.get(1) {
        let output = &mut store.data_mut().wasi.output;
        for byte in bytes {
            if let Val::U8(byte) = byte {
                output.push(stream, *byte);
            }
        }
    }
    ok(None)
}

fn random_bytes(
    mut store: StoreContextMut<'_, GuestState>,
    _: &[u32],
    arguments: &[Val],
) -> Result<Option<Val>> {
    let count = match arguments.first() {
        Some(Val::U64(count)) if *count <= RANDOM_BYTES_MAX => *count,
        _ => bail!("the plugin asked for more than {RANDOM_BYTES_MAX} random bytes at once"),
    };
    let wasi = &mut store.data_mut().wasi;
    let bytes = (0..count)
        .map(|_| Val::U8(wasi.random().to_le_bytes()[0]))
        .collect();
    Ok(Some(Val::List(bytes)))
}

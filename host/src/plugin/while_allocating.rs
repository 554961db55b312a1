//! Lets a guest call what it wants of WASI while it allocates memory for what the broker hands over. The component model forbids every
//! call out of a component then, but runtimes with a collector look at a clock or want random numbers whenever they allocate. So
//! each component gets small modules between it and these functions: they pass calls on, but while `cabi_realloc` runs they answer
//! themselves, beginning from what was answered last. The modules are beside this, as text and as what is made of it.
//!
//! Only knows how components are written down. What cannot be followed is left as it is, and then a call at that time is a fault.

use std::collections::BTreeMap;
use std::ops::Range;

use wasm_encoder::{
    Alias, CanonicalFunctionSection, CanonicalOption, Component, ComponentAliasSection,
    ComponentExportKind, ComponentSectionId, ExportKind, InstanceSection, ModuleArg, RawSection,
};
use wasmparser::{
    CanonicalFunction, Chunk, ComponentAlias, ComponentExternalKind, ComponentInstance,
    ComponentOuterAliasKind, ComponentTypeRef, Encoding, ExternalKind, Instance, Parser, Payload,
};

use super::engine::CORE_INSTANCES_MAX;

/// Changes when the modules do, or where they come: what was compiled with others is compiled anew.
pub(super) const VERSION: u32 = 1;

/// A module that stands in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Module {
    State,
    Realloc,
    Now,
    Random,
    WallClock,
    Seed,
    RandomBytes,
}

impl Module {
    fn bytes(self) -> &'static [u8] {
        match self {
            Self::State => include_bytes!("while_allocating/state.wasm"),
            Self::Realloc => include_bytes!("while_allocating/realloc.wasm"),
            Self::Now => include_bytes!("while_allocating/now.wasm"),
            Self::Random => include_bytes!("while_allocating/random.wasm"),
            Self::WallClock => include_bytes!("while_allocating/wall_clock.wasm"),
            Self::Seed => include_bytes!("while_allocating/seed.wasm"),
            Self::RandomBytes => include_bytes!("while_allocating/random_bytes.wasm"),
        }
    }

    /// Between a component and this function of WASI.
    fn before(import: &str, function: &str) -> Option<Self> {
        let (interface, version) = import.split_once('@')?;
        if !version.starts_with("0.2.") {
            return None;
        }
        Some(match (interface, function) {
            ("wasi:clocks/monotonic-clock", "now") => Self::Now,
            ("wasi:clocks/wall-clock", "now") => Self::WallClock,
            ("wasi:random/random", "get-random-u64")
            | ("wasi:random/insecure", "get-insecure-random-u64") => Self::Random,
            ("wasi:random/random", "get-random-bytes")
            | ("wasi:random/insecure", "get-insecure-random-bytes") => Self::RandomBytes,
            ("wasi:random/insecure-seed", "insecure-seed") => Self::Seed,
            _ => return None,
        })
    }
}

/// The component with modules between it and WASI; nothing if it wants none of those functions, or cannot be followed.
pub(super) fn callable(component: &[u8]) -> Option<Vec<u8>> {
    let mut writer = Writer::default();
    let mut parser = Parser::new(0);
    let mut at = 0;
    loop {
        let rest = component.get(at..)?;
        let Ok(Chunk::Parsed { consumed, payload }) = parser.parse(rest, true) else {
            return None;
        };
        at += consumed;
        match payload {
            Payload::Version { encoding, .. } if encoding != Encoding::Component => return None,
            Payload::Version { .. } => {}
            Payload::End(_) => break,
            Payload::ModuleSection {
                unchecked_range, ..
            } => {
                writer.raw(
                    ComponentSectionId::CoreModule.into(),
                    component,
                    &unchecked_range,
                )?;
                writer.add_module();
                at = unchecked_range.end;
            }
            Payload::ComponentSection {
                unchecked_range, ..
            } => {
                writer.raw(
                    ComponentSectionId::Component.into(),
                    component,
                    &unchecked_range,
                )?;
                at = unchecked_range.end;
            }
            payload => writer.section(component, payload)?,
        }
    }
    // With more it would be refused, and without these it need not be.
    let fits = writer.instantiated <= CORE_INSTANCES_MAX;
    (writer.is_between && fits).then(|| writer.component.finish())
}

/// Writes the component anew, and knows what has which number now.
#[derive(Default)]
struct Writer<'a> {
    component: Component,
    /// New numbers by old ones.
    modules: Vec<u32>,
    instances: Vec<u32>,
    functions: Vec<u32>,
    /// How many there are now.
    module_count: u32,
    instance_count: u32,
    function_count: u32,
    /// The names of imported instances, by number.
    imports: Vec<Option<&'a str>>,
    /// What comes before functions of the component's level, by number.
    wanted: Vec<Option<Module>>,
    /// The numbers of modules that were added.
    added: BTreeMap<Module, u32>,
    state: Option<u32>,
    /// By the number that the function has now.
    reallocs: BTreeMap<u32, u32>,
    /// How many modules are instantiated.
    instantiated: u32,
    is_between: bool,
}

impl<'a> Writer<'a> {
    fn raw(&mut self, id: u8, bytes: &[u8], range: &Range<usize>) -> Option<()> {
        let data = bytes.get(range.clone())?;
        self.component.section(&RawSection { id, data });
        Some(())
    }

    fn section(&mut self, bytes: &[u8], payload: Payload<'a>) -> Option<()> {
        let (id, range) = payload.as_section()?;
        match payload {
            Payload::InstanceSection(instances) => {
                for instance in instances {
                    self.instance(instance.ok()?)?;
                }
                return Some(());
            }
            Payload::ComponentAliasSection(aliases) => {
                for alias in aliases {
                    self.alias(&alias.ok()?)?;
                }
                return Some(());
            }
            Payload::ComponentCanonicalSection(functions) => {
                for function in functions {
                    self.canonical(function.ok()?)?;
                }
                return Some(());
            }
            Payload::ComponentImportSection(imports) => {
                for import in imports {
                    let import = import.ok()?;
                    match import.ty {
                        ComponentTypeRef::Module(_) => self.add_module(),
                        ComponentTypeRef::Func(_) => self.wanted.push(None),
                        ComponentTypeRef::Instance(_) => self.imports.push(Some(import.name.name)),
                        _ => {}
                    }
                }
            }
            Payload::ComponentInstanceSection(instances) => {
                for instance in instances {
                    if let ComponentInstance::Instantiate { args, .. } = instance.ok()?
                        && args
                            .iter()
                            .any(|arg| arg.kind == ComponentExternalKind::Module)
                    {
                        return None;
                    }
                    self.imports.push(None);
                }
            }
            Payload::ComponentExportSection(exports) => {
                for export in exports {
                    match export.ok()?.kind {
                        ComponentExternalKind::Func => self.wanted.push(None),
                        ComponentExternalKind::Instance => self.imports.push(None),
                        ComponentExternalKind::Module => return None,
                        _ => {}
                    }
                }
            }
            Payload::ComponentTypeSection(_)
            | Payload::CoreTypeSection(_)
            | Payload::CustomSection(_) => {}
            _ => return None,
        }
        self.raw(id, bytes, &range)
    }

    fn instance(&mut self, instance: Instance<'a>) -> Option<()> {
        let mut section = InstanceSection::new();
        match instance {
            Instance::Instantiate { module_index, args } => {
                self.instantiated += 1;
                let module = *self.modules.get(module_index as usize)?;
                let args = args.iter().map(|arg| {
                    let instance = *self.instances.get(arg.index as usize)?;
                    Some((arg.name, ModuleArg::Instance(instance)))
                });
                let args: Vec<_> = args.collect::<Option<_>>()?;
                section.instantiate(module, args);
            }
            Instance::FromExports(exports) => {
                let items = exports.iter().map(|export| {
                    let index = match export.kind {
                        ExternalKind::Func => *self.functions.get(export.index as usize)?,
                        _ => export.index,
                    };
                    Some((export.name, export_kind(export.kind)?, index))
                });
                let items: Vec<_> = items.collect::<Option<_>>()?;
                section.export_items(items);
            }
        }
        self.component.section(&section);
        self.instances.push(self.instance_count);
        self.instance_count += 1;
        Some(())
    }

    fn alias(&mut self, alias: &ComponentAlias<'a>) -> Option<()> {
        let alias = match *alias {
            ComponentAlias::InstanceExport {
                kind,
                instance_index,
                name,
            } => {
                match kind {
                    ComponentExternalKind::Func => {
                        let import = *self.imports.get(instance_index as usize)?;
                        let module = import.and_then(|import| Module::before(import, name));
                        self.wanted.push(module);
                    }
                    ComponentExternalKind::Instance => self.imports.push(None),
                    ComponentExternalKind::Module => self.add_module(),
                    _ => {}
                }
                Alias::InstanceExport {
                    instance: instance_index,
                    kind: component_export_kind(kind),
                    name,
                }
            }
            ComponentAlias::CoreInstanceExport {
                kind,
                instance_index,
                name,
            } => {
                let instance = *self.instances.get(instance_index as usize)?;
                if kind == ExternalKind::Func {
                    self.add_function();
                }
                Alias::CoreInstanceExport {
                    instance,
                    kind: export_kind(kind)?,
                    name,
                }
            }
            ComponentAlias::Outer { kind, count, index } => Alias::Outer {
                kind: match kind {
                    ComponentOuterAliasKind::Type => wasm_encoder::ComponentOuterAliasKind::Type,
                    _ => return None,
                },
                count,
                index,
            },
        };
        self.write_alias(alias);
        Some(())
    }

    fn canonical(&mut self, function: CanonicalFunction) -> Option<()> {
        match function {
            CanonicalFunction::Lift {
                core_func_index,
                type_index,
                options,
            } => {
                let options = self.options(&options)?;
                let function = *self.functions.get(core_func_index as usize)?;
                let mut section = CanonicalFunctionSection::new();
                section.lift(function, type_index, options);
                self.component.section(&section);
                self.wanted.push(None);
            }
            CanonicalFunction::Lower {
                func_index,
                options,
            } => {
                let realloc = options.iter().find_map(|option| match option {
                    wasmparser::CanonicalOption::Realloc(index) => Some(*index),
                    _ => None,
                });
                let memory = options.iter().find_map(|option| match option {
                    wasmparser::CanonicalOption::Memory(index) => Some(*index),
                    _ => None,
                });
                let options = self.options(&options)?;
                let mut section = CanonicalFunctionSection::new();
                section.lower(func_index, options);
                self.component.section(&section);
                self.add_function();
                if let Some(module) = *self.wanted.get(func_index as usize)? {
                    let realloc = match realloc {
                        Some(index) => Some(*self.functions.get(index as usize)?),
                        None => None,
                    };
                    let lowered = self.functions.pop()?;
                    let between = self.put_before(module, lowered, memory, realloc);
                    self.functions.push(between);
                }
            }
            CanonicalFunction::ResourceNew { resource } => {
                self.resource(|section| section.resource_new(resource));
            }
            CanonicalFunction::ResourceDrop { resource } => {
                self.resource(|section| section.resource_drop(resource));
            }
            CanonicalFunction::ResourceRep { resource } => {
                self.resource(|section| section.resource_rep(resource));
            }
            _ => return None,
        }
        Some(())
    }

    fn resource(
        &mut self,
        define: impl FnOnce(&mut CanonicalFunctionSection) -> &mut CanonicalFunctionSection,
    ) {
        let mut section = CanonicalFunctionSection::new();
        define(&mut section);
        self.component.section(&section);
        self.add_function();
    }

    fn options(&mut self, options: &[wasmparser::CanonicalOption]) -> Option<Vec<CanonicalOption>> {
        let mut written = Vec::with_capacity(options.len());
        for option in options {
            written.push(match *option {
                wasmparser::CanonicalOption::UTF8 => CanonicalOption::UTF8,
                wasmparser::CanonicalOption::UTF16 => CanonicalOption::UTF16,
                wasmparser::CanonicalOption::CompactUTF16 => CanonicalOption::CompactUTF16,
                wasmparser::CanonicalOption::Memory(index) => CanonicalOption::Memory(index),
                wasmparser::CanonicalOption::Realloc(index) => {
                    let realloc = *self.functions.get(index as usize)?;
                    CanonicalOption::Realloc(self.realloc(realloc))
                }
                wasmparser::CanonicalOption::PostReturn(index) => {
                    CanonicalOption::PostReturn(*self.functions.get(index as usize)?)
                }
                _ => return None,
            });
        }
        Some(written)
    }

    // The function that says that the guest's one runs.
    fn realloc(&mut self, realloc: u32) -> u32 {
        if let Some(known) = self.reallocs.get(&realloc) {
            return *known;
        }
        let guest = self.export_items(&[("f", ExportKind::Func, realloc)]);
        let says = self.instantiate_between(Module::Realloc, guest);
        self.reallocs.insert(realloc, says);
        says
    }

    // The function that the guest gets in place of the lowered one.
    fn put_before(
        &mut self,
        module: Module,
        lowered: u32,
        memory: Option<u32>,
        realloc: Option<u32>,
    ) -> u32 {
        self.is_between = true;
        let mut items = vec![("f", ExportKind::Func, lowered)];
        items.extend(memory.map(|memory| ("memory", ExportKind::Memory, memory)));
        items.extend(realloc.map(|realloc| ("realloc", ExportKind::Func, realloc)));
        let behind = self.export_items(&items);
        self.instantiate_between(module, behind)
    }

    // The function of a module that has what is behind it, and the state that all share.
    fn instantiate_between(&mut self, module: Module, behind: u32) -> u32 {
        let state = match self.state {
            Some(state) => state,
            None => {
                let module = self.added(Module::State);
                let state = self.instantiate(module, &[]);
                *self.state.insert(state)
            }
        };
        let module = self.added(module);
        let instance = self.instantiate(module, &[("behind", behind), ("state", state)]);
        self.write_alias(Alias::CoreInstanceExport {
            instance,
            kind: ExportKind::Func,
            name: "f",
        });
        self.function_count += 1;
        self.function_count - 1
    }

    fn added(&mut self, module: Module) -> u32 {
        if let Some(known) = self.added.get(&module) {
            return *known;
        }
        self.component.section(&RawSection {
            id: ComponentSectionId::CoreModule.into(),
            data: module.bytes(),
        });
        self.added.insert(module, self.module_count);
        self.module_count += 1;
        self.module_count - 1
    }

    fn instantiate(&mut self, module: u32, args: &[(&str, u32)]) -> u32 {
        let args = args
            .iter()
            .map(|(name, instance)| (*name, ModuleArg::Instance(*instance)));
        let mut section = InstanceSection::new();
        section.instantiate(module, args);
        self.component.section(&section);
        self.instantiated += 1;
        self.instance_count += 1;
        self.instance_count - 1
    }

    fn export_items(&mut self, items: &[(&str, ExportKind, u32)]) -> u32 {
        let mut section = InstanceSection::new();
        section.export_items(items.iter().copied());
        self.component.section(&section);
        self.instance_count += 1;
        self.instance_count - 1
    }

    fn write_alias(&mut self, alias: Alias<'_>) {
        let mut section = ComponentAliasSection::new();
        section.alias(alias);
        self.component.section(&section);
    }

    // One that was there before has its number.
    fn add_module(&mut self) {
        self.modules.push(self.module_count);
        self.module_count += 1;
    }

    fn add_function(&mut self) {
        self.functions.push(self.function_count);
        self.function_count += 1;
    }
}

fn export_kind(kind: ExternalKind) -> Option<ExportKind> {
    Some(match kind {
        ExternalKind::Func => ExportKind::Func,
        ExternalKind::Table => ExportKind::Table,
        ExternalKind::Memory => ExportKind::Memory,
        ExternalKind::Global => ExportKind::Global,
        ExternalKind::Tag => ExportKind::Tag,
        _ => return None,
    })
}

fn component_export_kind(kind: ComponentExternalKind) -> ComponentExportKind {
    match kind {
        ComponentExternalKind::Module => ComponentExportKind::Module,
        ComponentExternalKind::Func => ComponentExportKind::Func,
        ComponentExternalKind::Value => ComponentExportKind::Value,
        ComponentExternalKind::Type => ComponentExportKind::Type,
        ComponentExternalKind::Instance => ComponentExportKind::Instance,
        ComponentExternalKind::Component => ComponentExportKind::Component,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_modules_are_what_their_texts_say() {
        for name in [
            "state",
            "realloc",
            "now",
            "random",
            "wall_clock",
            "seed",
            "random_bytes",
        ] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("src/plugin/while_allocating")
                .join(name);
            let made = wat::parse_file(path.with_extension("wat")).expect("a module");
            let path = path.with_extension("wasm");
            if std::env::var_os("UPDATE_GENERATED").is_some() {
                std::fs::write(&path, &made).expect("the sources can be written");
            }
            let kept = std::fs::read(&path).expect("it is there");
            assert_eq!(kept, made, "{name}: run this test with UPDATE_GENERATED=1");
        }
    }

    #[test]
    fn what_wants_nothing_or_is_no_component_stays_as_it_is() {
        for text in [
            "(component)",
            "(module)",
            r#"(component (import "wasi:clocks/monotonic-clock@0.2.0" (instance (export "now" (func (result u64))))))"#,
        ] {
            let bytes = wat::parse_str(text).expect("a component in text form");
            assert_eq!(callable(&bytes), None, "{text}");
            for cut in 0..bytes.len() {
                assert_eq!(callable(&bytes[..cut]), None);
            }
        }
        assert_eq!(callable(b"hello"), None);
    }

    #[test]
    fn damage_is_no_panic() {
        let bytes = wat::parse_str(include_str!("testdata/filter.wat")).expect("a component");
        assert!(callable(&bytes).is_some());
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x55;
            let _either = callable(&damaged);
        }
    }
}

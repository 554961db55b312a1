//! What the broker asks of the C library's allocator, so that memory that is free goes back to the system. Only speed and
//! memory depend on it.

/// Arenas and large blocks as they suit a broker. To be called before other threads are started. What the environment says
/// otherwise (`MALLOC_ARENA_MAX`, `MALLOC_MMAP_THRESHOLD_`) holds.
///
/// glibc has up to eight arenas per core, and each keeps what its threads have freed. By itself it also takes ever larger
/// blocks from arenas instead of from the system once such have been freed, up to 32 MiB: sled's segments and the buffers of
/// deliveries then lie between others that stay. Draining a backlog of 2 GiB, the broker took 309 to 316 MiB without this, and
/// 246 to 252 MiB with it, at the same speed (`compare backlog`, two cores).
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(super) fn set_up() {
    /// Blocks from this length on are the system's own, and go back to it when they are freed.
    const MAPPED_BYTES_MIN: libc::c_int = 1 << 20;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let arenas = libc::c_int::try_from(cores).unwrap_or(libc::c_int::MAX);
    let set = |variable: &str, parameter: libc::c_int, value: libc::c_int| {
        if std::env::var_os(variable).is_none() {
            // SAFETY: it changes a number inside the allocator, under the allocator's lock; it takes no pointer.
            unsafe { libc::mallopt(parameter, value) };
        }
    };
    set("MALLOC_ARENA_MAX", libc::M_ARENA_MAX, arenas);
    set(
        "MALLOC_MMAP_THRESHOLD_",
        libc::M_MMAP_THRESHOLD,
        MAPPED_BYTES_MIN,
    );
}

/// Other allocators are left as they are.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(super) fn set_up() {}

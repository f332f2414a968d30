//! The shim: one tiny process per pod that holds its namespaces, starts its containers, keeps their logs and exit codes,
//! and outlives the agent. No standard library, no allocator: idle it must cost a few pages.
//!
//! The agent executes it with a listening socket as stdin, the pod's program as stdout and a report socket as stderr. It
//! forks, runs the pod's program (namespaces, host name, shared mounts), reports, and serves until it is told to end.
#![no_std]
#![no_main]
#![deny(unsafe_op_in_unsafe_fn)]

#[cfg(target_arch = "aarch64")]
#[path = "arch_aarch64.rs"]
mod arch;
#[cfg(target_arch = "x86_64")]
#[path = "arch_x86_64.rs"]
mod arch;
mod clock;
mod output;
mod paths;
mod process;
mod program;
mod rotation;
mod serve;
mod start;
mod steps;
mod sys;
mod wire;

/// The first file descriptor that is neither a standard stream nor one of the agent's three.
const FIRST_OWN: usize = 10;

/// The entry after the assembly, with the initial stack: argument count, arguments.
///
/// The one argument, if there is one, is the cgroup v2 directory in which the shim is to be born.
pub extern "C" fn shim_main(stack: *const usize) -> ! {
    let moved = [0, 1, 2].map(|it| sys::duplicate_above(it, FIRST_OWN));
    let ([Ok(listener), Ok(program), Ok(report)], Ok(null)) = (moved, sys::open(sys::AT_FDCWD, c"/dev/null", sys::O_RDWR, 0))
    else {
        sys::exit(125)
    };
    for standard in 0..3 {
        let _ = sys::duplicate(null, standard);
    }
    sys::close(null);
    // SAFETY: the kernel puts the argument count and that many C strings there.
    let group = unsafe { (*stack > 1).then(|| core::ffi::CStr::from_ptr((*stack.add(2)) as *const core::ffi::c_char)) };
    let group = group.map(|path| sys::open(sys::AT_FDCWD, path, sys::O_RDONLY | sys::O_DIRECTORY, 0));
    let Ok(group) = group.transpose() else { sys::exit(124) };
    // The grandchild belongs to init from the start, so the agent has nothing to reap when the shim ends.
    match sys::fork(0, group) {
        Ok(0) => {
            group.map(sys::close);
            serve::run(listener, program, report)
        }
        Ok(_) => sys::exit(0),
        Err(_) => sys::exit(125),
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    sys::exit(126)
}

/// The precompiled core library names it; nothing unwinds here.
#[unsafe(no_mangle)]
pub extern "C" fn rust_eh_personality() {}

/// As above.
#[unsafe(no_mangle)]
pub extern "C" fn _Unwind_Resume() -> ! {
    sys::exit(126)
}

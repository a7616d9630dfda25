//! The kernels' sources as a library of the process: compiled by the machine's C++ compiler, and called.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_void};
use std::io::ErrorKind;
use std::process::Command;

use super::super::launch::Launch;

/// What CUDA is to the sources.
const HEADER: &str = concat!(include_str!("cuda.hpp"), include_str!("tiles.hpp"));

const OPTIONS: [&str; 10] = [
    "-O1",
    "-std=c++17",
    "-shared",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-strict-aliasing",
    // Without a call for each access to what a thread has of its own: half of the time.
    "-ftls-model=initial-exec",
    // The fortified longjmp refuses to go from one fiber to another.
    "-U_FORTIFY_SOURCE",
    // A kernel's name may be that of a function of the process.
    "-Wl,-Bsymbolic",
    "-Wno-unknown-pragmas",
];

/// In which order blocks, and threads between two barriers, take their turns. What depends on it has a race.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Backwards,
    Forwards,
}

/// Kernels by their names.
pub(super) struct Library {
    kernels: HashMap<String, Emulated>,
}

/// As `EMULATE` of the header makes it.
///
/// # Safety
/// The launch and the texts are alive, ranges name memory that nobody else uses, and there is a value for each letter of the kinds.
type Emulated = unsafe extern "C" fn(*const RawLaunch, *const *const u64, *const c_char) -> *const c_char;

/// `Range` of the header: memory that a launch may access.
#[repr(C)]
pub(super) struct Range {
    begin: *mut u8,
    bytes: u64,
    writable: u32,
    unused: u32,
}

/// `Launch` of the header.
#[repr(C)]
struct RawLaunch {
    grid: [u32; 3],
    block: u32,
    shared_bytes: u32,
    backwards: u32,
    ranges: *const Range,
    range_count: u64,
}

/// Arguments, each with its kind.
#[derive(Default)]
pub(super) struct Call {
    values: Vec<u64>,
    kinds: Vec<u8>,
}

impl Range {
    pub(super) fn new((begin, bytes): (*mut u8, usize), writable: bool) -> Self {
        Self { begin, bytes: bytes as u64, writable: u32::from(writable), unused: 0 }
    }
}

impl Call {
    pub(super) fn push_pointer(&mut self, pointer: *const u8) {
        self.push(b'p', pointer as u64);
    }

    pub(super) fn push_int(&mut self, value: i32) {
        self.push(b'i', first_bytes(value.to_ne_bytes()));
    }

    pub(super) fn push_float(&mut self, value: f32) {
        self.push(b'f', first_bytes(value.to_ne_bytes()));
    }

    fn push(&mut self, kind: u8, value: u64) {
        self.kinds.push(kind);
        self.values.push(value);
    }
}

/// What a pointer to the number points to.
fn first_bytes([a, b, c, d]: [u8; 4]) -> u64 {
    u64::from_ne_bytes([a, b, c, d, 0, 0, 0, 0])
}

impl Library {
    /// `None`, said aloud, without a C++ compiler.
    ///
    /// # Panics
    /// When the sources do not compile, or when there is no compiler in CI.
    pub(super) fn compile(source: &str, kernels: &[&str], options: &[&str]) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder for a library");
        let [source_path, library] = ["kernels.cpp", "kernels.so"].map(|name| folder.path().join(name));
        let exports: String = kernels.iter().map(|kernel| format!("EMULATE({kernel})\n")).collect();
        std::fs::write(&source_path, format!("{HEADER}\n{source}\n{exports}")).expect("a folder that can be written");
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
        let mut command = Command::new(&compiler);
        command.args(OPTIONS).args(options).arg("-o").arg(&library).arg(&source_path);
        let output = match command.output() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                assert!(std::env::var_os("CI").is_none(), "no C++ compiler {compiler}, and CI must have one");
                eprintln!("skipped: kernels of a GPU, since there is no C++ compiler {compiler}");
                return None;
            }
            output => output.expect("a compiler that starts"),
        };
        assert!(output.status.success(), "{compiler}: {}", String::from_utf8_lossy(&output.stderr));
        Some(Self::load(&library, kernels))
    }

    /// What the launch did wrong, if it did.
    pub(super) fn run(
        &self,
        kernel: &str,
        launch: &Launch,
        ranges: &[Range],
        call: Call,
        order: Order,
    ) -> Result<(), String> {
        let raw = RawLaunch {
            grid: launch.grid,
            block: launch.block,
            shared_bytes: launch.shared_bytes,
            backwards: u32::from(order == Order::Backwards),
            ranges: ranges.as_ptr(),
            range_count: ranges.len() as u64,
        };
        let arguments: Vec<*const u64> = call.values.iter().map(std::ptr::from_ref).collect();
        let kinds = CString::new(call.kinds).expect("letters");
        // SAFETY: the function has this signature, by `EMULATE`; it compares the arguments' kinds with its own before it reads them, and every
        // access of a kernel with the ranges. Those are memory of a run, which the caller holds exclusively.
        let error = unsafe { self.kernels[kernel](&raw const raw, arguments.as_ptr(), kinds.as_ptr()) };
        if error.is_null() {
            return Ok(());
        }
        // SAFETY: a text that ends in zero, of this thread until its next launch.
        Err(unsafe { CStr::from_ptr(error) }.to_string_lossy().into_owned())
    }

    /// The library stays loaded until the process ends.
    fn load(path: &std::path::Path, kernels: &[&str]) -> Self {
        let path = CString::new(path.to_string_lossy().into_owned()).expect("a path without zeros");
        // SAFETY: the path ends in zero; the library is ours and does nothing when it is loaded.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        assert!(!handle.is_null(), "a library that was just compiled cannot be loaded");
        let find = |kernel: &&str| {
            let name = CString::new(format!("emulate_{kernel}")).expect("a name without zeros");
            // SAFETY: the handle is loaded, the name ends in zero.
            let symbol = unsafe { libc::dlsym(handle, name.as_ptr()) };
            assert!(!symbol.is_null(), "{kernel} is not among the sources");
            // SAFETY: `EMULATE` made a function of this signature under the name, and it stays loaded.
            let emulated = unsafe { std::mem::transmute::<*mut c_void, Emulated>(symbol) };
            ((*kernel).to_owned(), emulated)
        };
        Self { kernels: kernels.iter().map(find).collect() }
    }
}

//! Tile instructions by inline assembly: std::arch has them on nightly Rust only.

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::cell::Cell;
use std::sync::OnceLock;

use super::{LINE, SIDE, Tiles};

/// `ARCH_REQ_XCOMP_PERM` of Linux' arch_prctl(2): asks for the use of a component of the CPU's state.
#[cfg(target_os = "linux")]
const REQUEST_PERMISSION: libc::c_long = 0x1023;
/// The component of the tiles' data.
#[cfg(target_os = "linux")]
const TILE_DATA: libc::c_long = 18;

/// Whether the CPU has tiles of bf16 and the operating system lets this process use them, which is asked once.
pub(crate) fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| detected() && permitted())
}

/// CPUID leaf 7: AMX-BF16 and AMX-TILE.
fn detected() -> bool {
    const BITS: u32 = 1 << 22 | 1 << 24;
    let highest = __cpuid_count(0, 0).eax;
    highest >= 7 && __cpuid_count(7, 0).edx & BITS == BITS
}

/// Threads that were started before have the permission too: it is the process's.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    // SAFETY: this system call takes two numbers and touches no memory.
    unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// What `ldtilecfg` reads: palette 1, and for each tile its bytes per row and rows.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// The tiles of this thread, configured. They stay so: kernels of other crates that use tiles configure them for themselves.
pub(super) struct Hardware {
    /// The tiles are the thread's: not `Send`.
    _thread: std::marker::PhantomData<*mut ()>,
}

impl Hardware {
    /// Panics where there are no tiles.
    pub(super) fn new() -> Self {
        thread_local!(static CONFIGURED: Cell<bool> = const { Cell::new(false) });
        assert!(available(), "this CPU has no AMX");
        if !CONFIGURED.get() {
            configure();
            CONFIGURED.set(true);
        }
        Self { _thread: std::marker::PhantomData }
    }
}

/// Gives all eight tiles 16 rows of 64 bytes.
fn configure() {
    let mut configuration =
        Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
    configuration.row_bytes[..8].fill(LINE as u16);
    configuration.rows[..8].fill(SIDE as u8);
    // SAFETY: the CPU has tiles and the process may use them (`new` checked it); the operand is a valid configuration.
    unsafe {
        asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(nostack, preserves_flags));
    }
}

// The sums live in tiles from one assembly block to the next. The compiler has no values that it could keep in tiles, so nothing else
// writes them; and blocks without `pure` keep their order.
impl Tiles for Hardware {
    #[inline(always)]
    fn zero<const TILE: usize>(&mut self) {
        // SAFETY: the tile is configured.
        unsafe { asm!("tilezero tmm{tile}", tile = const TILE, options(nostack, nomem, preserves_flags)) };
    }

    // SAFETY: as the trait asks of callers.
    #[inline(always)]
    unsafe fn load<const TILE: usize>(&mut self, rows: *const f32, stride: usize) {
        // SAFETY: the tile is configured, the caller promises its rows.
        unsafe {
            asm!(
                "tileloadd tmm{tile}, [{rows} + {stride}]",
                tile = const TILE, rows = in(reg) rows, stride = in(reg) stride,
                options(nostack, readonly, preserves_flags)
            );
        }
    }

    #[inline(always)]
    fn multiply<const SUMS: usize, const LEFT: usize, const RIGHT: usize>(&mut self) {
        // SAFETY: the tiles are configured.
        unsafe {
            asm!(
                "tdpbf16ps tmm{sums}, tmm{left}, tmm{right}",
                sums = const SUMS, left = const LEFT, right = const RIGHT,
                options(nostack, nomem, preserves_flags)
            );
        }
    }

    // SAFETY: as the trait asks of callers.
    #[inline(always)]
    unsafe fn store<const TILE: usize>(&mut self, rows: *mut f32, stride: usize) {
        // SAFETY: the tile is configured, the caller promises room for its rows.
        unsafe {
            asm!(
                "tilestored [{rows} + {stride}], tmm{tile}",
                tile = const TILE, rows = in(reg) rows, stride = in(reg) stride,
                options(nostack, preserves_flags)
            );
        }
    }
}

//! What local workers compute on: each GPU goes to one of them, or is shared where there are more.

use std::collections::BTreeMap;

use asyncdiff_model::kernels::{CudaError, DeviceChoice, DeviceSet, Gpus};

/// Local workers of a CPU, unless the user says how many: enough to see the arrangement work on any machine.
const CPU_WORKERS: usize = 2;

/// What another process takes of a GPU before it computes anything, about: its context and its libraries' kernels. Some 300 to 600 MiB.
const CONTEXT_BYTES: u64 = 768 << 20;

/// What one local worker computes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalDevice {
    /// Where.
    pub device: DeviceChoice,
    /// Its share of a GPU's memory, where it is not the only one there.
    pub memory_bytes: Option<u64>,
}

/// A device for each worker: as many workers as were asked for, else one for each GPU.
pub(crate) fn local_devices(asked: DeviceSet, workers: Option<usize>) -> Result<Vec<LocalDevice>, CudaError> {
    if asked == DeviceSet::Cpu {
        return Ok(vec![LocalDevice::default(); workers.unwrap_or(CPU_WORKERS)]);
    }
    let gpus = Gpus::find()?;
    deal(&gpus.of(asked)?, workers, |ordinal| gpus.usable(ordinal)?.free_bytes())
}

/// Round by round. Memory is asked for where it is to be divided only: each worker sees for itself what its own GPU has.
fn deal(
    devices: &[DeviceChoice],
    workers: Option<usize>,
    free_bytes: impl Fn(usize) -> Result<u64, CudaError>,
) -> Result<Vec<LocalDevice>, CudaError> {
    let workers = workers.unwrap_or(devices.len());
    let mut shares: BTreeMap<usize, u64> = BTreeMap::new();
    let mut dealt = Vec::with_capacity(workers);
    for (index, &device) in devices.iter().cycle().take(workers).enumerate() {
        let place = index % devices.len();
        let sharing = (workers - place).div_ceil(devices.len()) as u64;
        let memory_bytes = match device {
            DeviceChoice::Cuda(ordinal) if sharing > 1 => Some(match shares.get(&ordinal) {
                Some(&known) => known,
                None => {
                    let share = (free_bytes(ordinal)? / sharing).saturating_sub(CONTEXT_BYTES).max(1);
                    shares.insert(ordinal, share);
                    share
                }
            }),
            DeviceChoice::Cpu | DeviceChoice::Cuda(_) => None,
        };
        dealt.push(LocalDevice { device, memory_bytes });
    }
    Ok(dealt)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn dealt(gpus: usize, workers: Option<usize>) -> Vec<(usize, Option<u64>)> {
        let devices: Vec<DeviceChoice> = (0..gpus).map(DeviceChoice::Cuda).collect();
        let dealt = deal(&devices, workers, |_| Ok(80 * GIB)).unwrap();
        let ordinal = |device| match device {
            DeviceChoice::Cpu => panic!("a CPU among GPUs"),
            DeviceChoice::Cuda(ordinal) => ordinal,
        };
        dealt.into_iter().map(|local| (ordinal(local.device), local.memory_bytes)).collect()
    }

    #[test]
    fn each_gpu_has_a_worker() {
        assert_eq!(dealt(3, None), [(0, None), (1, None), (2, None)]);
        assert_eq!(dealt(3, Some(2)), [(0, None), (1, None)]);
    }

    #[test]
    fn more_workers_than_gpus_share_them_and_their_memory() {
        let half = Some(40 * GIB - CONTEXT_BYTES);
        assert_eq!(dealt(2, Some(3)), [(0, half), (1, None), (0, half)]);
        assert_eq!(dealt(1, Some(2)), [(0, half), (0, half)]);
    }

    #[test]
    fn a_cpu_is_everybodys_and_gpus_are_there_or_an_error() {
        assert_eq!(local_devices(DeviceSet::Cpu, None), Ok(vec![LocalDevice::default(); 2]));
        assert_eq!(local_devices(DeviceSet::Cpu, Some(3)), Ok(vec![LocalDevice::default(); 3]));
        if !cfg!(feature = "cuda") {
            assert_eq!(local_devices(DeviceSet::AllGpus, None), Err(CudaError::NotBuilt));
        }
    }
}

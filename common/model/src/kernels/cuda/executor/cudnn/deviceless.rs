//! Plans for a GPU that is not there: the library makes them from a description, so that it says of every operation that we would hand over
//! whether it takes it.
//!
//! Run with cuDNN from 9.13 on and NVRTC in `LD_LIBRARY_PATH`, and a `libcuda.so.1` that can be opened:
//!
//! ```text
//!   cargo test -p asyncdiff-model --features cuda --lib deviceless -- --ignored
//! ```

use super::descriptor::{Descriptors, Kind, Name, Value};
use super::library::Functions;
use super::plan::{Machine, Operation, Plan};
use crate::graph::Activation;
use crate::kernels::Format;
use crate::kernels::cuda::fused::{AttentionShape, ConvolutionShape, Epilogue};

/// An H100 as NVIDIA's data sheets and CUDA's tables of compute capabilities describe it.
const H100: &std::ffi::CStr = cr#"{
    "deviceName": "NVIDIA H100 80GB HBM3", "deviceVer": 900, "driverVer": 13000, "cudaDeviceId": 0, "pciDeviceId": 0,
    "multiProcessorCount": 132, "smCountOrigin": 0, "smClockRateKHz": 1980000, "memClockRateKHz": 2619000, "memoryBusWidth": 5120,
    "l2CacheSize": 52428800, "totalGlobalMem": 85029158912, "warpSize": 32, "regsPerBlock": 65536, "maxRegistersPerSM": 65536,
    "maxSharedMemoryPerBlock": 49152, "maxSharedMemoryPerBlockOptin": 232448, "oversizedSharedMemoryPerBlock": 0,
    "reservedSharedMemoryPerBlock": 1024, "maxCtasPerSM": 32, "maxThreadsPerBlock": 1024, "maxThreadsPerSM": 2048,
    "maxGridSize": [2147483647, 65535, 65535], "maxBlockSize": [1024, 1024, 64], "isTccDriver": 0, "supportCoopLaunch": 1
}"#;

/// As the device's.
const WORKSPACE_BYTES: usize = 32 << 20;

/// Of SD 2.1 at 768², batch 2, its VAE, and what has another epilogue.
fn convolutions() -> Vec<ConvolutionShape> {
    let then = |row_bias, residual| Epilogue { bias: true, row_bias, residual, ..Epilogue::NONE };
    let shape = |size: usize, channels, out_channels, then| ConvolutionShape {
        format: Format::Bf16,
        rows: 2,
        height: size,
        width: size,
        channels,
        out_height: size,
        out_width: size,
        out_channels,
        kernel: 3,
        stride: 1,
        padding: [1, 1],
        then,
    };
    let mut shapes = Vec::new();
    for (size, channels) in [(96, 320), (48, 640), (24, 1280), (12, 1280)] {
        shapes.push(shape(size, channels, channels, then(Some(2), None)));
        shapes.push(shape(size, channels, channels, then(None, Some(2))));
        shapes.push(shape(size, channels, channels, then(Some(1), Some(1))));
        shapes.push(shape(size, 2 * channels, channels, then(Some(2), None)));
        let halved = ConvolutionShape {
            out_height: size / 2,
            out_width: size / 2,
            stride: 2,
            ..shape(size, channels, channels, then(None, None))
        };
        shapes.push(halved);
        shapes.push(ConvolutionShape { padding: [0, 1], ..halved });
    }
    // Linear layers of transformers, and shortcuts over concatenations.
    for (tokens, channels) in [(9216, 320), (2304, 640), (576, 1280), (144, 1280)] {
        let linear = |in_channels, then| ConvolutionShape {
            height: 1,
            width: tokens,
            out_height: 1,
            out_width: tokens,
            kernel: 1,
            padding: [0, 0],
            ..shape(1, in_channels, channels, then)
        };
        shapes.push(linear(channels, then(None, None)));
        shapes.push(linear(channels, then(None, Some(2))));
        shapes.push(linear(4 * channels, then(None, Some(2))));
        shapes.push(linear(3 * channels, then(None, None)));
        let gated = ConvolutionShape { out_channels: 4 * channels, ..linear(channels, then(None, None)) };
        shapes.push(ConvolutionShape { then: Epilogue { activation: Activation::Gelu, ..gated.then }, ..gated });
        shapes.push(ConvolutionShape { then: Epilogue { factor: true, ..gated.then }, ..gated });
    }
    shapes.push(shape(96, 320, 4, then(None, None)));
    shapes.push(shape(96, 320, 320, Epilogue { activation: Activation::Silu, ..then(Some(2), Some(2)) }));
    shapes.push(ConvolutionShape { rows: 1, ..shape(384, 512, 512, then(None, Some(1))) });
    let windows = shapes.iter().filter(|shape| shape.kernel > 1);
    let plain: Vec<_> = windows.map(|shape| ConvolutionShape { then: Epilogue::NONE, ..*shape }).collect();
    shapes.into_iter().chain(plain).collect()
}

/// Self and cross attention of SD 1.5, 2.1 and SDXL, and of the VAE.
fn attentions() -> Vec<AttentionShape> {
    let mut shapes = Vec::new();
    for (tokens, heads, width) in [
        (9216, 5, 64),
        (2304, 10, 64),
        (576, 20, 64),
        (144, 20, 64),
        (4096, 8, 40),
        (1024, 8, 80),
        (256, 8, 160),
        (9216, 1, 512),
    ] {
        let channels = heads * width;
        let own = AttentionShape {
            format: Format::Bf16,
            rows: 2,
            heads,
            width,
            queries: tokens,
            keys: tokens,
            strides: [3 * channels; 3],
            operand_rows: [2; 3],
        };
        shapes.push(own);
        for rows in [1, 2] {
            let strides = [channels, 2 * channels, 2 * channels];
            shapes.push(AttentionShape { keys: 77, strides, operand_rows: [2, rows, rows], ..own });
        }
    }
    shapes
}

#[test]
#[ignore = "needs cuDNN, NVRTC and a driver's library"]
fn an_h100_has_a_plan_for_every_operation_of_the_large_networks() {
    let functions = Functions::find().expect("cuDNN, from 9.13 on");
    let mut descriptors = Descriptors::new(functions);
    let description = [(Name::CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, Value::Text(H100))];
    let h100 = descriptors.make(Kind::CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, &description).unwrap();
    let attentions = attentions().into_iter().map(Operation::Attention);
    for operation in convolutions().into_iter().map(Operation::Convolution).chain(attentions) {
        let plan = Plan::choose(functions, Machine::Described(h100), &operation, WORKSPACE_BYTES);
        assert!(plan.unwrap_or_else(|failure| panic!("{}: {operation:?}", failure.text())).is_some(), "{operation:?}");
    }
}

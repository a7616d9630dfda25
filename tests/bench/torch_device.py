"""What PyTorch needs on the CPU for the parts of Stable Diffusion: the baseline that the Rust device is held against.

Setup and use, in this folder (torch's CPU build is enough; without the extra index pip pulls the CUDA one):

    python3 -m venv venv
    venv/bin/pip install -r requirements.txt --extra-index-url https://download.pytorch.org/whl/cpu
    venv/bin/python torch_device.py --cpu 0 > torch.json                        # one thread, pinned, everything
    venv/bin/python torch_device.py --cpu 0 --cases unet-bench,matmul-2048 --dtypes f32 --runs 20 --repeats 3
    venv/bin/python torch_device.py --cases unet-demo --demo path/to/diffusers/folder

Weights are random (only the time counts). Models run in eager mode as diffusers ships them, with scaled dot product
attention, under `torch.inference_mode`, with MKL and oneDNN as torch ships them. Each case runs in the default memory
format and in channels_last, each after warm-up runs, and the format with the lower median is reported. On a busy
machine use --repeats: the rounds alternate between the formats and the best median of a format counts.

Cases (batch 2, as with guidance, except for the decoder):

    matmul-2048     2048x1024 times 1024x1024, with its GFLOP/s: what the machine gives
    unet-bench      UNet 64/128/256/256, 32x32 latents, text 77x256
    unet-demo       the UNet whose configuration lies in DEMO/unet/config.json (left out without --demo)
    unet-sd15       UNet of Stable Diffusion 1.5, 64x64 latents (512x512 pixels), text 77x768
    vae-decode-512  decoder of its autoencoder, 1x4x64x64 to 512x512 pixels
    clip-sd15       its text encoder, 77 tokens

Standard output is one JSON object: {"torch", "cpu", "threads", "capability", "results": [{"case", "dtype", "ms"
(median of the best round), "runs" (in that round), "min_ms" and "max_ms" (over all rounds of that format),
"memory_format", "medians" (format: median of each round), for matmul "gflops"}]}. Progress goes to standard error.
"""
import argparse
import json
import os
import platform
import statistics
import sys
import time

CASES = ["matmul-2048", "unet-bench", "unet-demo", "unet-sd15", "vae-decode-512", "clip-sd15"]
DTYPES = ["f32", "bf16"]
MINIMUM_RUNS = 3


def parse_options():
    def names(known):
        def parse(text):
            unknown = set(chosen := text.split(",")) - set(known)
            if unknown:
                raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
            return chosen
        return parse

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cpu", type=lambda text: {int(cpu) for cpu in text.split(",")}, help="pin to CPUs: 0 or 0,1")
    parser.add_argument("--cases", type=names(CASES), help="comma separated, all by default")
    parser.add_argument("--dtypes", type=names(DTYPES), default=DTYPES, help="f32,bf16 by default")
    parser.add_argument("--runs", type=int, default=15, help="timed runs in a round, at most")
    parser.add_argument("--seconds", type=float, default=20,
                        help=f"start no run in a round after this (but {MINIMUM_RUNS} runs at least)")
    parser.add_argument("--repeats", type=int, default=1, help="rounds for each case, dtype and memory format")
    parser.add_argument("--demo", metavar="DIR", help="diffusers folder for unet-demo")
    options = parser.parse_args()
    if options.cases is None:
        options.cases = [case for case in CASES if case != "unet-demo" or options.demo]
    elif "unet-demo" in options.cases and not options.demo:
        parser.error("unet-demo needs --demo")
    return options


# Before torch is loaded, so that all of its threads inherit the CPUs.
options = parse_options()
if options.cpu:
    os.sched_setaffinity(0, options.cpu)
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(options.threads)

import torch  # noqa: E402
from diffusers import AutoencoderKL, UNet2DConditionModel  # noqa: E402
from transformers import CLIPTextConfig, CLIPTextModel  # noqa: E402


class Case:
    """A model (None for plain operations) and a function that makes its input and returns one run of it."""

    def __init__(self, model, prepare, formats=("contiguous", "channels_last"), flop=None):
        self.model, self.prepare, self.formats, self.flop = model, prepare, formats, flop


def unet_case(unet):
    config = unet.config

    def prepare(dtype, memory_format):
        latents = torch.randn(2, config.in_channels, config.sample_size, config.sample_size, dtype=dtype)
        latents = latents.contiguous(memory_format=memory_format)
        text, step = torch.randn(2, 77, config.cross_attention_dim, dtype=dtype), torch.tensor(500)
        return lambda: unet(latents, step, text, return_dict=False)[0]
    return Case(unet, prepare)


def make_case(name):
    down = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    up = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    if name == "unet-bench":
        return unet_case(UNet2DConditionModel(
            sample_size=32, block_out_channels=(64, 128, 256, 256), down_block_types=down, up_block_types=up,
            layers_per_block=2, cross_attention_dim=256, attention_head_dim=[2, 4, 8, 8], use_linear_projection=True))
    if name == "unet-sd15":  # its attention_head_dim is, by an old mistake of diffusers, the number of heads
        return unet_case(UNet2DConditionModel(
            sample_size=64, block_out_channels=(320, 640, 1280, 1280), down_block_types=down, up_block_types=up,
            layers_per_block=2, cross_attention_dim=768, attention_head_dim=8))
    if name == "unet-demo":
        config = UNet2DConditionModel.load_config(options.demo, subfolder="unet")
        return unet_case(UNet2DConditionModel.from_config(config))
    if name == "vae-decode-512":
        vae = AutoencoderKL(block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
                            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
                            sample_size=512)

        def prepare_vae(dtype, memory_format):
            latents = torch.randn(1, 4, 64, 64, dtype=dtype).contiguous(memory_format=memory_format)
            return lambda: vae.decode(latents, return_dict=False)[0]
        return Case(vae, prepare_vae)
    if name == "clip-sd15":
        clip = CLIPTextModel(CLIPTextConfig(
            vocab_size=49408, hidden_size=768, intermediate_size=3072, projection_dim=768, num_hidden_layers=12,
            num_attention_heads=12, max_position_embeddings=77, hidden_act="quick_gelu"))

        def prepare_clip(_dtype, _memory_format):
            tokens = torch.randint(0, 49405, (2, 77))
            return lambda: clip(tokens, return_dict=False)[0]
        return Case(clip, prepare_clip, formats=("contiguous",))  # it has no images

    def prepare_matmul(dtype, _memory_format):
        a, b = torch.randn(2048, 1024, dtype=dtype), torch.randn(1024, 1024, dtype=dtype)
        return lambda: a @ b
    return Case(None, prepare_matmul, formats=("contiguous",), flop=2 * 2048 * 1024 * 1024)


def timed(run):
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1e3


def time_round(run):
    for _ in range(1 if timed(run) > 500 else 5):  # warm-up: one run, then one more of a slow or 5 of a fast case
        run()
    times, end = [], time.perf_counter() + options.seconds
    while len(times) < MINIMUM_RUNS or (len(times) < options.runs and time.perf_counter() < end):
        times.append(timed(run))
    return times


def measure(name, case, dtype_name):
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[dtype_name]
    if case.model is not None:
        case.model.eval().requires_grad_(False).to(dtype)
    rounds = {memory_format: [] for memory_format in case.formats}
    for _ in range(options.repeats):
        for format_name, so_far in rounds.items():
            memory_format = getattr(torch, {"contiguous": "contiguous_format"}.get(format_name, format_name))
            if case.model is not None:
                case.model.to(memory_format=memory_format)
            with torch.inference_mode():
                so_far.append(time_round(case.prepare(dtype, memory_format)))
            print(f"{name} {dtype_name} {format_name}: {statistics.median(so_far[-1]):.2f} ms", file=sys.stderr)
    best_format, best = min(((format_name, times) for format_name, so_far in rounds.items() for times in so_far),
                            key=lambda pair: statistics.median(pair[1]))
    every = [ms for times in rounds[best_format] for ms in times]
    result = {"case": name, "dtype": dtype_name, "ms": round(statistics.median(best), 3), "runs": len(best),
              "min_ms": round(min(every), 3), "max_ms": round(max(every), 3), "memory_format": best_format,
              "medians": {format_name: [round(statistics.median(times), 3) for times in so_far]
                          for format_name, so_far in rounds.items()}}
    if case.flop:
        result["gflops"] = round(case.flop / statistics.median(best) / 1e6, 1)
    return result


def cpu_name():
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


torch.manual_seed(0)
torch.set_num_threads(options.threads)
results = []
for name in options.cases:
    case = make_case(name)
    results += [measure(name, case, dtype) for dtype in options.dtypes]
    del case
print(json.dumps({"torch": torch.__version__, "cpu": cpu_name(), "threads": torch.get_num_threads(),
                  "capability": torch.backends.cpu.get_cpu_capability(), "results": results}, indent=1))

"""What PyTorch takes for a step of Stable Diffusion's UNets at their full sizes: the baseline that `coordinator bench step` is held against.

    python3 tests/gpu/torch_step.py --out torch.json                   # on a GPU: sd21 and sdxl in bf16, eager and torch.compile
    python3 tests/gpu/torch_step.py --cases sd21 --modes max-autotune
    python3 tests/gpu/torch_step.py --check                            # on the CPU: that the UNet of this file is diffusers'

The UNet is diffusers' UNet2DConditionModel where that can be imported, else the one in this file, which calls the same modules of PyTorch in the
same order: `--check` compares the names of their parameters and what they compute. Weights are random (only the time counts); batch 2, as with
guidance; `torch.inference_mode`, scaled dot product attention, and cuDNN may try its algorithms (torch.backends.cudnn.benchmark), which makes PyTorch
faster. Eager steps are timed in both memory formats and the faster one is reported; compiled ones in channels_last.

Cases: sd21 (96x96 latents, 768x768 pixels), sdxl (128x128 latents, 1024x1024 pixels), tiny (64/128/256/256 channels, 32x32 latents).
Modes: eager; compile (torch.compile); max-autotune (torch.compile(mode="max-autotune"), which takes minutes).

Standard output, and --out after each result, is one JSON object: {"torch", "cuda", "cudnn", "gpu", "unet", "results": [{"case", "dtype", "mode",
"memory_format", "milliseconds" (median of steps that are each waited for), "event_milliseconds" (the same by the GPU's own clock; null on a CPU),
"in_a_row_milliseconds" (a step, when the next one is handed over before it is done), "min_milliseconds", "max_milliseconds", "runs", "first_seconds",
"peak_bytes"} or {"case", "dtype", "mode", "error"}]}. Progress goes to standard error.
"""
import argparse
import json
import math
import os
import statistics
import sys
import time

import torch
from torch import nn
from torch.nn import functional

BATCH, TOKENS, TIMESTEP = 2, 77, 500
# The same files as the Rust side's.
CONFIGS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../coordinator/src/bench")
CASES = {"sd21": "unet_sd21.json", "sdxl": "unet_sdxl.json", "tiny": "unet_64_128_256_256.json"}
MODES = ["eager", "compile", "max-autotune"]
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
WARM_STEPS, LEAST_RUNS = 5, 3
CHECK_TOLERANCE = 1e-5
# A resnet's norms and a transformer's have different ones.
TRANSFORMER_NORM_EPS = 1e-6


def sinusoids(numbers, width):
    """Cosines, then sines, of frequencies from 1 down to 1/10000."""
    half = width // 2
    frequencies = torch.exp(torch.arange(half, dtype=torch.float32, device=numbers.device) * (-math.log(10000) / half))
    angles = numbers.float()[:, None] * frequencies[None, :]
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class Embedding(nn.Module):
    def __init__(self, width_in, width):
        super().__init__()
        self.linear_1 = nn.Linear(width_in, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, vector):
        return self.linear_2(functional.silu(self.linear_1(vector)))


class Resnet(nn.Module):
    def __init__(self, channels_in, channels, time_width, groups, eps):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels_in, eps=eps)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_width, channels)
        self.norm2 = nn.GroupNorm(groups, channels, eps=eps)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(channels_in, channels, 1) if channels_in != channels else None

    def forward(self, hidden, time):
        inner = self.conv1(functional.silu(self.norm1(hidden)))
        inner = inner + self.time_emb_proj(functional.silu(time))[:, :, None, None]
        inner = self.conv2(functional.silu(self.norm2(inner)))
        return (hidden if self.conv_shortcut is None else self.conv_shortcut(hidden)) + inner


class Attention(nn.Module):
    def __init__(self, width, context_width, heads):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context_width, width, bias=False)
        self.to_v = nn.Linear(context_width, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width), nn.Identity()])

    def forward(self, hidden, context):
        def by_head(tokens):
            return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        attended = functional.scaled_dot_product_attention(
            by_head(self.to_q(hidden)), by_head(self.to_k(context)), by_head(self.to_v(context)))
        return self.to_out[0](attended.transpose(1, 2).flatten(2))


class Gated(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.proj = nn.Linear(width, 8 * width)

    def forward(self, hidden):
        values, gates = self.proj(hidden).chunk(2, dim=-1)
        return values * functional.gelu(gates)


class FeedForward(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.net = nn.ModuleList([Gated(width), nn.Identity(), nn.Linear(4 * width, width)])

    def forward(self, hidden):
        return self.net[2](self.net[0](hidden))


class TransformerBlock(nn.Module):
    def __init__(self, width, context_width, heads):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = Attention(width, width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.attn2 = Attention(width, context_width, heads)
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width)

    def forward(self, hidden, context):
        normed = self.norm1(hidden)
        hidden = self.attn1(normed, normed) + hidden
        hidden = self.attn2(self.norm2(hidden), context) + hidden
        return self.ff(self.norm3(hidden)) + hidden


class Transformer(nn.Module):
    def __init__(self, width, context_width, heads, blocks, groups):
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, eps=TRANSFORMER_NORM_EPS)
        self.proj_in = nn.Linear(width, width)
        self.transformer_blocks = nn.ModuleList(TransformerBlock(width, context_width, heads) for _ in range(blocks))
        self.proj_out = nn.Linear(width, width)

    def forward(self, hidden, context):
        height = hidden.shape[2]
        tokens = self.proj_in(self.norm(hidden).permute(0, 2, 3, 1).flatten(1, 2))
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        return self.proj_out(tokens).unflatten(1, (height, -1)).permute(0, 3, 1, 2) + hidden


class Sampler(nn.Module):
    """A convolution at `conv`: of stride 2, or behind nearest neighbours to twice the size."""

    def __init__(self, channels, stride):
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(channels, channels, 3, stride=stride, padding=1)

    def forward(self, hidden):
        if self.stride == 1:
            hidden = functional.interpolate(hidden, scale_factor=2.0, mode="nearest")
        return self.conv(hidden)


class Block(nn.Module):
    """Resnets, each followed by a transformer where there are any; modules that there are none of have no name."""

    def __init__(self, resnets, transformers, sampler_name=None, sampler=None):
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        self.attentions = nn.ModuleList(transformers) if transformers else None
        self.downsamplers = nn.ModuleList([sampler]) if sampler_name == "down" else None
        self.upsamplers = nn.ModuleList([sampler]) if sampler_name == "up" else None


class Unet(nn.Module):
    """The UNet of Stable Diffusion 2.x and XL by its configuration, with the names of diffusers' parameters."""

    def __init__(self, config):
        super().__init__()
        self.channels, groups, eps = config["block_out_channels"], config["norm_num_groups"], config["norm_eps"]
        channels, context = self.channels, config["cross_attention_dim"]
        assert config["use_linear_projection"] and config["act_fn"] == "silu" and config["flip_sin_to_cos"], "another architecture"
        levels, time = len(channels), 4 * channels[0]
        depths = config.get("transformer_layers_per_block") or 1
        depths = [depths] * levels if isinstance(depths, int) else depths
        heads, layers = config["attention_head_dim"], config["layers_per_block"]

        def resnet(channels_in, channels_out):
            return Resnet(channels_in, channels_out, time, groups, eps)

        def transformers(kind, level, count):
            if "CrossAttn" not in kind:
                return []
            return [Transformer(channels[level], context, heads[level], depths[level], groups) for _ in range(count)]

        self.conv_in = nn.Conv2d(config["in_channels"], channels[0], 3, padding=1)
        self.time_embedding = Embedding(channels[0], time)
        self.added_width = config.get("addition_time_embed_dim") if config.get("addition_embed_type") else None
        self.add_embedding = Embedding(config["projection_class_embeddings_input_dim"], time) if self.added_width else None
        self.down_blocks, skips, width = nn.ModuleList(), [channels[0]], channels[0]
        for level, kind in enumerate(config["down_block_types"]):
            resnets = [resnet(width if index == 0 else channels[level], channels[level]) for index in range(layers)]
            width = channels[level]
            has_sampler = level + 1 < levels
            sampler = Sampler(width, 2) if has_sampler else None
            self.down_blocks.append(Block(resnets, transformers(kind, level, layers), "down" if has_sampler else None, sampler))
            skips += [width] * (layers + has_sampler)
        middle = [Transformer(width, context, heads[-1], depths[-1], groups)]
        self.mid_block = Block([resnet(width, width), resnet(width, width)], middle)
        self.up_blocks = nn.ModuleList()
        for index, kind in enumerate(config["up_block_types"]):
            level, resnets = levels - 1 - index, []
            for _ in range(layers + 1):
                resnets.append(resnet(width + skips.pop(), channels[level]))
                width = channels[level]
            has_sampler = level > 0
            sampler = Sampler(width, 1) if has_sampler else None
            self.up_blocks.append(Block(resnets, transformers(kind, level, layers + 1), "up" if has_sampler else None, sampler))
        self.conv_norm_out = nn.GroupNorm(groups, channels[0], eps=eps)
        self.conv_out = nn.Conv2d(channels[0], config["out_channels"], 3, padding=1)

    def forward(self, sample, timestep, encoder_hidden_states, added_cond_kwargs=None, return_dict=False):
        time = self.time_embedding(sinusoids(timestep.expand(sample.shape[0]), self.channels[0]).to(sample.dtype))
        if self.add_embedding is not None:
            text, ids = added_cond_kwargs["text_embeds"], added_cond_kwargs["time_ids"]
            numbers = sinusoids(ids.flatten(), self.added_width).unflatten(0, (ids.shape[0], -1)).flatten(1)
            time = time + self.add_embedding(torch.cat([text, numbers], dim=-1).to(time.dtype))
        hidden = self.conv_in(sample)
        skips = [hidden]
        for block in self.down_blocks:
            for index, resnet in enumerate(block.resnets):
                hidden = resnet(hidden, time)
                if block.attentions is not None:
                    hidden = block.attentions[index](hidden, encoder_hidden_states)
                skips.append(hidden)
            if block.downsamplers is not None:
                hidden = block.downsamplers[0](hidden)
                skips.append(hidden)
        hidden = self.mid_block.resnets[0](hidden, time)
        hidden = self.mid_block.attentions[0](hidden, encoder_hidden_states)
        hidden = self.mid_block.resnets[1](hidden, time)
        for block in self.up_blocks:
            for index, resnet in enumerate(block.resnets):
                hidden = resnet(torch.cat([hidden, skips.pop()], dim=1), time)
                if block.attentions is not None:
                    hidden = block.attentions[index](hidden, encoder_hidden_states)
            if block.upsamplers is not None:
                hidden = block.upsamplers[0](hidden)
        return (self.conv_out(functional.silu(self.conv_norm_out(hidden))),)


def read_config(case):
    with open(os.path.join(CONFIGS, CASES[case])) as file:
        return json.load(file)


def diffusers_unet():
    """diffusers' class and version, or neither and why."""
    try:
        import diffusers
        return diffusers.UNet2DConditionModel, f"diffusers {diffusers.__version__}"
    except Exception as error:  # whatever keeps it from being imported
        return None, f"of this file ({type(error).__name__}: {error})"


def make_unet(config, is_own, device):
    theirs, source = (None, "of this file") if is_own else diffusers_unet()
    with torch.device(device):
        unet = Unet(config) if theirs is None else theirs.from_config(config)
    return unet.eval().requires_grad_(False), source


def make_inputs(config, dtype, device, memory_format=torch.contiguous_format):
    def noise(*shape):
        return torch.randn(shape, device=device, dtype=dtype)
    side = config["sample_size"]
    sample = noise(BATCH, config["in_channels"], side, side).contiguous(memory_format=memory_format)
    inputs = {"sample": sample, "timestep": torch.tensor(TIMESTEP, device=device), "return_dict": False,
              "encoder_hidden_states": noise(BATCH, TOKENS, config["cross_attention_dim"])}
    if config.get("addition_embed_type"):
        ids = torch.tensor([[1024.0, 1024.0, 0.0, 0.0, 1024.0, 1024.0]] * BATCH, device=device)
        pooled = config["projection_class_embeddings_input_dim"] - ids.shape[1] * config["addition_time_embed_dim"]
        inputs["added_cond_kwargs"] = {"text_embeds": noise(BATCH, pooled), "time_ids": ids.to(dtype)}
    return inputs


class Clock:
    """Times steps; on a GPU also by its own clock."""

    def __init__(self, device):
        self.is_cuda = device.startswith("cuda")

    def wait(self):
        if self.is_cuda:
            torch.cuda.synchronize()

    def one(self, step):
        """Seconds until it is done, and the GPU's milliseconds."""
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if self.is_cuda else None
        start = time.perf_counter()
        if marks:
            marks[0].record()
        step()
        if marks:
            marks[1].record()
        self.wait()
        return time.perf_counter() - start, marks[0].elapsed_time(marks[1]) if marks else None

    def in_a_row(self, step, count):
        start = time.perf_counter()
        for _ in range(count):
            step()
        self.wait()
        return (time.perf_counter() - start) / count


def time_steps(step, clock, options):
    first, _ = clock.one(step)
    for _ in range(WARM_STEPS if first < 0.2 or clock.is_cuda else 1):
        clock.one(step)
    times, end = [], time.perf_counter() + options.seconds
    while len(times) < LEAST_RUNS or (len(times) < options.runs and time.perf_counter() < end):
        times.append(clock.one(step))
    seconds = [one for one, _ in times]
    events = [event for _, event in times if event is not None]
    return {
        "milliseconds": round(statistics.median(seconds) * 1e3, 4),
        "event_milliseconds": round(statistics.median(events), 4) if events else None,
        "in_a_row_milliseconds": round(clock.in_a_row(step, len(times)) * 1e3, 4),
        "min_milliseconds": round(min(seconds) * 1e3, 4), "max_milliseconds": round(max(seconds) * 1e3, 4),
        "runs": len(times), "first_seconds": round(first, 2),
    }


def measure(case, dtype_name, mode, options):
    config, dtype, device = read_config(case), DTYPES[dtype_name], options.device
    torch.manual_seed(0)
    clock = Clock(device)
    if clock.is_cuda:
        torch.cuda.reset_peak_memory_stats()
    unet, source = make_unet(config, options.own, device)
    unet = unet.to(dtype)
    formats = {"channels_last": torch.channels_last}
    if mode == "eager":
        formats["contiguous"] = torch.contiguous_format
    else:
        unet.compile(**({"mode": mode} if mode != "compile" else {}))
    found = []
    with torch.inference_mode():
        for name, memory_format in formats.items():
            unet = unet.to(memory_format=memory_format)
            inputs = make_inputs(config, dtype, device, memory_format)
            timed = time_steps(lambda: unet(**inputs)[0], clock, options)
            print(f"{case} {dtype_name} {mode} {name}: {timed['milliseconds']:.2f} ms", file=sys.stderr)
            found.append({"memory_format": name, **timed})
    best = min(found, key=lambda timed: timed["milliseconds"])
    peak = torch.cuda.max_memory_allocated() if clock.is_cuda else None
    return {"case": case, "dtype": dtype_name, "mode": mode, **best, "peak_bytes": peak}, source


def measure_all(options):
    report = {"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": None, "gpu": None, "unet": None, "results": []}
    if options.device.startswith("cuda"):
        report["gpu"], report["cudnn"] = torch.cuda.get_device_name(), torch.backends.cudnn.version()
        torch.backends.cudnn.benchmark = True
    for case in options.cases:
        for dtype in options.dtypes:
            for mode in options.modes:
                try:
                    result, report["unet"] = measure(case, dtype, mode, options)
                except Exception as error:  # a compiler that is missing, too little memory: said, and the next one is measured
                    text = f"{type(error).__name__}: {error}".splitlines()[0][:300]
                    print(f"{case} {dtype} {mode}: {text}", file=sys.stderr)
                    result = {"case": case, "dtype": dtype, "mode": mode, "error": text}
                report["results"].append(result)
                write(report, options.out)
                torch._dynamo.reset()
                if options.device.startswith("cuda"):
                    torch.cuda.empty_cache()
    print(json.dumps(report, indent=1))
    return 0 if any("milliseconds" in result for result in report["results"]) else 1


def write(report, path):
    """Under another name first: whoever is stopped in between leaves the results before."""
    if path:
        with open(path + ".part", "w") as file:
            json.dump(report, file, indent=1)
        os.replace(path + ".part", path)


def check():
    """Compares the UNet of this file with diffusers', small ones of both families, in f32 on the CPU."""
    theirs, source = diffusers_unet()
    if theirs is None:
        print(f"skipped: diffusers cannot be imported: {source}")
        return 75
    small = {
        "sd21": {"block_out_channels": [32, 64, 64, 64], "attention_head_dim": [2, 4, 4, 8], "cross_attention_dim": 48, "sample_size": 16},
        "sdxl": {"block_out_channels": [32, 64, 64], "attention_head_dim": [2, 4, 8], "cross_attention_dim": 48, "sample_size": 12,
                 "transformer_layers_per_block": [1, 2, 3], "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 72},
    }
    worst = 0.0
    for case, changes in small.items():
        config = {**read_config(case), **changes}
        torch.manual_seed(1)
        reference = theirs.from_config(config).eval()
        own = Unet(config).eval()
        expected, found = reference.state_dict(), own.state_dict()
        shapes = [{name: tuple(tensor.shape) for name, tensor in state.items()} for state in (expected, found)]
        if shapes[0] != shapes[1]:
            print(f"{case}: parameters differ: {sorted(set(shapes[0].items()) ^ set(shapes[1].items()))[:6]}")
            return 1
        own.load_state_dict(expected)
        with torch.inference_mode():
            inputs = make_inputs(config, torch.float32, "cpu")
            difference = (reference(**inputs)[0] - own(**inputs)[0]).abs().max().item()
        print(f"{case}: {len(expected)} parameters of the same names and shapes, largest difference {difference:.1e} ({source})")
        worst = max(worst, difference)
        with torch.device("meta"):
            full = [{name: tuple(tensor.shape) for name, tensor in unet.state_dict().items()}
                    for unet in (theirs.from_config(read_config(case)), Unet(read_config(case)))]
        if full[0] != full[1]:
            print(f"{case}: parameters differ at its full size")
            return 1
        print(f"{case} at its full size: {sum(math.prod(shape) for shape in full[1].values()):,} numbers in {len(full[1])} parameters, as diffusers'")
    return 0 if worst < CHECK_TOLERANCE else 1


def parse_options():
    def names(known):
        def parse(text):
            unknown = set(chosen := text.split(",")) - set(known)
            if unknown:
                raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
            return chosen
        return parse

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare the UNet of this file with diffusers' and end")
    parser.add_argument("--cases", type=names(CASES), default=["sd21", "sdxl"], help="comma separated: sd21,sdxl by default")
    parser.add_argument("--dtypes", type=names(DTYPES), default=["bf16"], help="comma separated: bf16 by default")
    parser.add_argument("--modes", type=names(MODES), default=["eager", "compile"], help="comma separated: eager,compile by default")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--own", action="store_true", help="the UNet of this file even where diffusers is")
    parser.add_argument("--runs", type=int, default=50, help="timed steps, at most")
    parser.add_argument("--seconds", type=float, default=20, help=f"start no step after this (but {LEAST_RUNS} at least)")
    parser.add_argument("--out", metavar="FILE", help="written after each result")
    return parser.parse_args()


if __name__ == "__main__":
    chosen = parse_options()
    sys.exit(check() if chosen.check else measure_all(chosen))

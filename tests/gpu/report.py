"""Makes report.md and report.json of what run.sh or several.sh left in a folder.

    python3 tests/gpu/report.py STATE COMMIT
    python3 tests/gpu/report.py --overlap TRACE…     how much of the time in which tensors travelled their readers computed

What is missing is left out: every stage says for itself whether it was done. Standard library only.
"""
import glob
import json
import os
import re
import sys

# Dense bf16 and f16 of tensor cores with f32 sums, in TFLOP/s, by a part of the GPU's name: NVIDIA's data sheets. The first match counts.
PEAKS = [("H100 PCIe", 756), ("H100 NVL", 835), ("H100", 989), ("H200", 989), ("GH200", 989), ("A100", 312), ("B200", 2250)]
HALF_FORMATS = ("bf16", "f16")
# What is compared is what either side does in each step of a picture.
COMPARISON = ("Less than 1 is faster than PyTorch. Keys and values of cross attentions, which depend on the prompt alone, are computed in each of "
              "PyTorch's steps and once per picture in ours.")


def peak_of(gpu):
    return next((peak for part, peak in PEAKS if gpu and part in gpu), None)


def read_json(path):
    try:
        with open(path) as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def read_lines(path):
    try:
        with open(path, errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []


def by_name(state, pattern):
    """Figures by the name of their stage."""
    paths = sorted(glob.glob(os.path.join(state, pattern)))
    found = {os.path.splitext(os.path.basename(path))[0]: read_json(path) for path in paths}
    return {name: figures for name, figures in found.items() if figures is not None}


def stages(state):
    return dict(line.split("\t", 1) for line in read_lines(os.path.join(state, "stages.tsv")))


def golden(state):
    """Of each golden stage: how many agree, the largest error; and how many runs have the same bits in two stages of one type."""
    runs = {}
    for path in sorted(glob.glob(os.path.join(state, "golden-*.jsonl"))):
        lines = [json.loads(line) for line in read_lines(path) if line.startswith("{")]
        runs[os.path.splitext(os.path.basename(path))[0]] = {line["name"]: line for line in lines}
    summaries, names = [], list(runs)
    for name, lines in runs.items():
        verdicts = [line["verdict"] for line in lines.values()]
        errors = [verdict["error"] for verdict in verdicts if "error" in verdict]
        # Parts are in f32 always, with a tolerance of their own.
        tolerances = sorted({verdict["tolerance"] for verdict in verdicts if "tolerance" in verdict})
        summaries.append({"stage": name, "agree": sum(verdict["kind"] == "passed" for verdict in verdicts), "of": len(verdicts),
                          "largest_error": max(errors, default=None), "tolerances": tolerances})
    same = []
    for index, one in enumerate(names):
        for other in names[index + 1:]:
            if one.split("-")[1] == other.split("-")[1]:
                pairs = [(line.get("digest"), runs[other][run].get("digest")) for run, line in runs[one].items() if run in runs[other]]
                pairs = [pair for pair in pairs if all(pair)]
                same.append({"stages": [one, other], "same_bits": sum(a == b for a, b in pairs), "of": len(pairs)})
    return {"stages": summaries, "same_bits": same}


def steps(state):
    """Rows of `bench step`, with the share of the GPU's peak."""
    rows = []
    for name, report in by_name(state, "step-*.json").items():
        peak = peak_of(report.get("gpu"))
        for case in report["cases"]:
            share = case["tflop_per_s"] / peak if peak and case["format"] in HALF_FORMATS else None
            without = re.search("no-(.*)", name)
            rows.append({"stage": name, "gpu": report.get("gpu"), "without": without[1] if without else "", "peak_tflop_per_s": peak,
                         "share_of_peak": share, **case})
    return rows


def torch(state):
    reports = by_name(state, "torch-*.json").values()
    rows = [{"unet": report["unet"], "torch": report["torch"], **result} for report in reports for result in report["results"]]
    rows += [{"case": name.split("-")[1], "mode": "-".join(name.split("-")[2:]) or "eager", "error": verdict}
             for name, verdict in stages(state).items()
             if name.startswith("torch-") and name != "torch-check" and verdict.startswith(("failed", "not done")) and
             not os.path.exists(os.path.join(state, name + ".json"))]
    return rows


def ratios(step_rows, torch_rows):
    """Ours over PyTorch's, less than 1 where ours is faster: of steps that are each waited for, and of steps in a row."""
    found = []
    for ours in step_rows:
        for theirs in torch_rows:
            if not ours["without"] and "milliseconds" in theirs and (ours["model"], ours["format"]) == (theirs["case"], theirs["dtype"]):
                found.append({"model": ours["model"], "format": ours["format"], "mode": theirs["mode"],
                              "ours_milliseconds": ours["milliseconds"], "torch_milliseconds": theirs["milliseconds"],
                              "ratio": ours["milliseconds"] / theirs["milliseconds"],
                              "ratio_in_a_row": ours["in_a_row_milliseconds"] / theirs["in_a_row_milliseconds"]})
    return found


def union(spans):
    merged = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end])
    return merged


def length(spans):
    return sum(end - start for start, end in spans)


def common(one, other):
    """What two unions have in common."""
    found, first, second = [], 0, 0
    while first < len(one) and second < len(other):
        start, end = max(one[first][0], other[second][0]), min(one[first][1], other[second][1])
        if start < end:
            found.append([start, end])
        if one[first][1] < other[second][1]:
            first += 1
        else:
            second += 1
    return found


def overlap(path):
    """Of each rank in a Chrome trace: milliseconds in which it computed, in which hidden states were on their way to it, and both at once."""
    trace = read_json(path)
    if trace is None:
        return None
    names, layers, transfers, begun = {}, {}, {}, {}
    for event in trace["traceEvents"]:
        process = event.get("pid")
        if event.get("name") == "process_name":
            names[process] = event["args"]["name"]
        elif event.get("cat") == "layer":
            layers.setdefault(process, []).append((event["ts"], event["ts"] + event["dur"]))
        elif event.get("cat") == "transfer" and "·" in event["name"]:
            # Not latents and noise predictions, which the next step waits for.
            if event["ph"] == "b":
                begun[event["id"]] = event["ts"]
            elif event["id"] in begun:
                transfers.setdefault(process, []).append((begun.pop(event["id"]), event["ts"]))
    ranks = []
    for process in sorted(layers):
        computing, travelling = union(layers[process]), union(transfers.get(process, []))
        both = length(common(computing, travelling))
        ranks.append({"rank": names.get(process, str(process)), "computing_milliseconds": length(computing) / 1e3,
                      "travelling_milliseconds": length(travelling) / 1e3, "tensors": len(transfers.get(process, [])),
                      "share_overlapped": both / length(travelling) if travelling else None})
    return {"trace": os.path.basename(path), "ranks": ranks}


def overlaps(state):
    paths = sorted(glob.glob(os.path.join(state, "traces-*", "*.json"))) + sorted(glob.glob(os.path.join(state, "*-trace.json")))
    found = [(os.path.relpath(path, state), overlap(path)) for path in paths]
    return [{**summary, "trace": name} for name, summary in found if summary]


def gpus(state):
    """Rows of `bench gpus`, with memory by rank: every list of bytes that a job's report has."""
    rows = []
    for name, report in by_name(state, "gpus-*.json").items():
        for row in report["rows"]:
            summary = row["summary"]
            memory = {key: value for key, value in summary.items() if key.endswith("_bytes") and isinstance(value, list)}
            rows.append({"stage": name, "model": row["model"], "workers": row["workers"], "stride": row["stride"],
                         "components": summary["components"], "step_milliseconds": row["step_milliseconds"], "speed_up": row["speed_up"],
                         "predicted_milliseconds": summary["predicted_seconds"] / max(summary["steps"], 1) * 1e3,
                         "bytes_per_step": summary["bytes_per_step"], "nccl_bytes_per_step": summary.get("nccl_bytes_per_step"),
                         "busy": summary["busy"], "memory_by_rank": memory,
                         "plan": summary["plan"]})
    return rows


def table(head, rows):
    aligned = "|".join("---" for _ in head)
    return [f"| {' | '.join(head)} |", f"|{aligned}|", *(f"| {' | '.join(row)} |" for row in rows), ""]


def number(value, digits=2, unit=""):
    return "" if value is None else f"{value:.{digits}f}{unit}"


def share(value):
    return "unknown" if value is None else f"{100 * value:.0f} %"


def size(value):
    if value is None:
        return ""
    return f"{value / 2**20:,.0f} MiB" if value >= 10 * 2**20 else f"{value / 2**10:,.0f} KiB"


def stage_part(report):
    return ["## Stages", "", *table(["stage", "verdict"], report["stages"].items())]


def golden_part(report):
    if not report["golden"]["stages"]:
        return []
    rows = [[row["stage"], f"{row['agree']} of {row['of']}", "" if row["largest_error"] is None else f"{row['largest_error']:.1e}",
             ", ".join(f"{tolerance:.0e}" for tolerance in row["tolerances"])] for row in report["golden"]["stages"]]
    lines = ["## Golden runs", "", *table(["stage", "agree", "largest error", "allowed (runs, parts)"], rows)]
    same = [[" and ".join(row["stages"]), f"{row['same_bits']} of {row['of']}"] for row in report["golden"]["same_bits"]]
    return lines + (table(["runs with the same bits", ""], same) if same else [])


def step_part(report):
    if not report["steps"]:
        return []
    rows = [[row["model"], row["format"], row["without"], number(row["milliseconds"]), number(row["in_a_row_milliseconds"]),
             number(row["first_milliseconds"], 0), number(row["tflop_per_s"], 1), share(row["share_of_peak"]), size(row["weight_bytes"]),
             size(row["device_bytes"])] for row in report["steps"]]
    head = ["model", "type", "without", "ms per step", "in a row", "first", "TFLOP/s", "of the peak", "weights", "memory of the GPU"]
    lines = ["## A step on one GPU, batch 2", "", *table(head, rows)]
    for row in report["steps"]:
        if not row["without"]:
            kinds = [[kind["kind"], str(kind["layers"]), number(kind["milliseconds"], 3), share(kind["share"]), number(kind["tflop_per_s"], 1)]
                     for kind in row["kinds"]]
            lines += [f"{row['model']} in {row['format']}, each layer by itself:", "", *table(["layers", "number", "ms", "share", "TFLOP/s"], kinds)]
    return lines


def torch_part(report):
    if not report["torch"]:
        return []
    rows = [[row["case"], row.get("dtype", ""), row["mode"], row.get("memory_format", ""), number(row.get("milliseconds")),
             number(row.get("in_a_row_milliseconds")), size(row.get("peak_bytes")), row.get("error", "")] for row in report["torch"]]
    versions = sorted({f"PyTorch {row['torch']}, UNet {row['unet']}" for row in report["torch"] if "torch" in row})
    head = ["model", "type", "mode", "memory format", "ms per step", "in a row", "memory of the GPU", "error"]
    lines = ["## PyTorch", "", *versions, "", *table(head, rows)]
    found = [[row["model"], row["format"], row["mode"], number(row["ours_milliseconds"]), number(row["torch_milliseconds"]),
              number(row["ratio"]), number(row["ratio_in_a_row"])] for row in report["ratios"]]
    head = ["model", "type", "PyTorch's mode", "ours, ms", "PyTorch, ms", "ours / PyTorch", "the same in a row"]
    return lines + ([COMPARISON, "", *table(head, found)] if found else [])


def gpus_part(report):
    if not report["gpus"]:
        return []

    def memory(row):
        return "; ".join(f"{key.removesuffix('_bytes').replace('_', ' ')}: {', '.join(size(value) for value in values)}"
                         for key, values in row["memory_by_rank"].items())
    rows = [[row["stage"], str(row["workers"]), str(row["stride"]), str(row["components"]), number(row["step_milliseconds"]),
             number(row["speed_up"], unit="x"), number(row["predicted_milliseconds"]), size(row["bytes_per_step"]), size(row["nccl_bytes_per_step"]),
             ", ".join(share(part) for part in row["busy"]), memory(row)] for row in report["gpus"]]
    head = ["stage", "workers", "stride", "components", "ms per step", "speed-up", "predicted, ms", "bytes per step", "by NCCL", "computing",
            "memory by rank"]
    return ["## Jobs of several workers", "", *table(head, rows)]


def overlap_part(report):
    rows = [[summary["trace"], rank["rank"], number(rank["computing_milliseconds"]), str(rank["tensors"]), number(rank["travelling_milliseconds"]),
             share(rank["share_overlapped"]) if rank["tensors"] else ""] for summary in report["overlap"] for rank in summary["ranks"]]
    if not rows:
        return []
    head = ["trace", "rank", "computing, ms", "hidden states received", "on their way, ms", "of that, while the rank computed"]
    return ["## Overlap", "", "Traces open at https://ui.perfetto.dev.", "", *table(head, rows)]


def main(state, commit):
    devices = [line for line in read_lines(os.path.join(state, "devices.log")) if re.match(r"(cpu|cuda(:\d+)?|driver|lib\w+\.so)  ", line)]
    parity = [line for line in read_lines(os.path.join(state, "parity.log")) if line.startswith("test result")]
    step_rows, torch_rows = steps(state), torch(state)
    report = {"commit": commit, "devices": devices, "parity": parity, "stages": stages(state), "golden": golden(state), "steps": step_rows,
              "torch": torch_rows, "ratios": ratios(step_rows, torch_rows), "gpus": gpus(state), "overlap": overlaps(state)}
    lines = [f"# GPU checks of commit {commit}", "", "```text", *(devices or ["no devices are known"]), *parity, "```", ""]
    for part in (stage_part, golden_part, step_part, torch_part, gpus_part, overlap_part):
        lines += part(report)
    for name, text in (("report.json", json.dumps(report, indent=1, ensure_ascii=False)), ("report.md", "\n".join(lines))):
        with open(os.path.join(state, name), "w") as file:
            file.write(text + "\n" * (not text.endswith("\n")))


if __name__ == "__main__":
    if len(sys.argv) > 2 and sys.argv[1] == "--overlap":
        print("\n".join(overlap_part({"overlap": [found for found in map(overlap, sys.argv[2:]) if found]})))
    elif len(sys.argv) == 3:
        main(*sys.argv[1:])
    else:
        sys.exit(__doc__)

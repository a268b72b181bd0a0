#!/usr/bin/env python3
"""The cases of a GPU comparison, and what the runs of them amount to. Starts no program: gpu_run.sh does. Standard library only.

gpu_table.py cases        one line for each case: name, iterations, arguments of both programs, separated by tabs
gpu_table.py table OUT    reads OUT/raw and writes OUT/gpu.json (all of it) and OUT/gpu.md (a table);
                          exit code 1 if a check failed or CRMT's program did

OUT/raw/machine.json                              the card, the driver, versions
OUT/raw/checks.*                                  av_bench --check
OUT/raw/roofline/PRECISION/{ours,torch}.*         what the card can do
OUT/raw/CASE/PRECISION/VARIANT/ROUND.*            one start of a program: .out (ends with a line of JSON), .log, .status (exit code)
OUT/raw/CASE/PRECISION/VARIANT/memory.*           one more, untimed; .used: MiB in use on the card, before it and then every 50 ms
"""
import json, os, pathlib, statistics, sys

RESNET = "--model resnet18 --batch 64 --frames 3 --image 224 --spectrogram 1024x128"
CNN = "--model cnn --batch 512 --spectrogram 64x64"
# Name: most that our time may be of PyTorch's best, iterations, arguments.
CASES = {
    "step-resnet": (0.9, 20, "--work step-crmt " + RESNET),
    "step-cnn": (0.5, 50, "--work step-crmt " + CNN),
    "pgd-resnet": (0.7, 5, "--work pgd --steps 10 " + RESNET),
    "pgd-cnn": (0.7, 20, "--work pgd --steps 10 " + CNN),
}
PRECISIONS = ("f32", "tf32", "bf16")
OURS = "ours"


def convolutions(options):
    """(channels in, out, side of the kernel, height and width in, out, images, reads a sample) of each convolution."""
    batch, width = int(options["batch"]), int(options.get("width", 32))
    half = lambda n: (n + 1) // 2
    for m in range(int(options.get("modalities", 2))):
        images = batch
        if m % 2:
            channels, (h, w) = 1, map(int, options.get("spectrogram", "64x64").split("x"))
        elif options["model"] == "cnn":
            channels, h, w = 1, 28, 28
        else:
            channels, h, w = 3, int(options.get("image", 224)), int(options.get("image", 224))
            images = batch * int(options.get("frames", 3))
        if options["model"] == "cnn":
            for i in range(4):
                out = width << i
                yield channels, out, 3, (h, w), (half(h), half(w)), images, i == 0
                channels, h, w = out, half(h), half(w)
            continue
        yield channels, 64, 7, (h, w), (half(h), half(w)), images, True
        channels, h, w = 64, half(half(h)), half(half(w))
        for out, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            for s in (stride, 1):
                after = (half(h), half(w)) if s == 2 else (h, w)
                yield channels, out, 3, (h, w), after, images, False
                yield out, out, 3, after, after, images, False
                if s == 2 or channels != out:
                    yield channels, out, 1, (h, w), after, images, False
                channels, (h, w) = out, after


def cost(arguments, element):
    """FLOPs and bytes of the convolutions, as a plain direct implementation has them: two for each product with a weight,
    padding included; the three tensors of each pass read or written once, in elements of so many bytes."""
    words = arguments.split()
    options = {key[2:]: value for key, value in zip(words[::2], words[1::2])}
    flops = moved = 0
    for cin, cout, k, before, after, images, first in convolutions(options):
        training = 2 if first else 3        # forward, the weights' gradient and, but for samples, the input's
        passes = {"forward": 1, "pgd": 2 * int(options.get("steps", 10))}.get(options["work"], training)
        weights, (h, w), (p, q) = cin * cout * k * k, before, after
        flops += 2 * images * weights * p * q * passes
        moved += element * (images * (cin * h * w + cout * p * q) + weights) * passes
    return flops, moved


def read(base):
    """One start of a program: None if there was none, else its status and what it printed."""
    status = pathlib.Path(f"{base}.status")
    if not status.exists():
        return None
    text = lambda end: pathlib.Path(f"{base}.{end}").read_text(errors="replace") if os.path.exists(f"{base}.{end}") else ""
    code, out, log, line = int(status.read_text() or 1), text("out").strip(), text("log").strip(), None
    for candidate in (out, out.split("\n")[-1]):
        try:
            line = json.loads(candidate)
            break
        except ValueError:
            pass
    return {"status": code, "line": line if isinstance(line, dict) else None, "log": log.split("\n")[-1] if log else ""}


def memory(base):
    """Bytes that a program took on the card: the most that was in use, less what was before."""
    try:
        used = [float(line) for line in open(f"{base}.used") if line.strip().replace(".", "", 1).isdigit()]
    except OSError:
        return None
    return (max(used) - used[0]) * 2**20 if len(used) > 1 and max(used) > used[0] else None


def variant(folder):
    """All rounds of one program, by number, and the first failure."""
    rounds, failed = {}, None
    for path in sorted(folder.glob("*.status")):
        run = read(path.with_suffix(""))
        ms = (run["line"] or {}).get("median_ms")
        if run["status"] != 0 or (path.stem != "memory" and not ms):
            why = "took too long" if run["status"] == 124 else run["log"] or "said nothing"
            failed = failed or f"exit code {run['status']}: {why}"
        elif path.stem.isdigit():
            rounds[int(path.stem)] = run["line"]
    times = [line["median_ms"] for line in rounds.values()]
    return {"median_ms": statistics.median(times) if times else None, "memory_bytes": memory(folder / "memory"), "failed": failed, "rounds": rounds}


def roofline(raw, precision):
    """The best of both programs: FLOPs and bytes in a second."""
    runs = [read(raw / "roofline" / precision / who) for who in (OURS, "torch")]
    lines = [run["line"] for run in runs if run and run["status"] == 0 and run["line"]]
    best = lambda key: max((line[key] * 1e9 for line in lines if line.get(key)), default=None)
    return {"flops_per_s": best("gemm_gflops"), "bytes_per_s": best("bandwidth_gb_s"), "runs": runs}


def compare(raw, name, precision, roof):
    """One case at one precision; None if nothing of it was started."""
    target, _, arguments = CASES[name]
    folder = raw / name / precision
    found = {path.name: variant(path) for path in sorted(folder.iterdir()) if path.is_dir()} if folder.is_dir() else {}
    if not found:
        return None
    ours = found.pop(OURS, None)
    timed = {who: peer for who, peer in found.items() if peer["median_ms"]}
    best = min(timed, key=lambda who: timed[who]["median_ms"], default=None)
    row = {"case": name, "precision": precision, "target": target, "arguments": arguments, "ours": ours, "peers": found, "best": best}
    if ours and ours["median_ms"] and best:
        peer = timed[best]
        row["ratio"] = ours["median_ms"] / peer["median_ms"]
        row["met"] = row["ratio"] <= target
        ratios = [line["median_ms"] / peer["rounds"][n]["median_ms"] for n, line in ours["rounds"].items() if n in peer["rounds"]]
        row["ratios"] = ratios
        if ours["memory_bytes"] and peer["memory_bytes"]:
            row["memory_ratio"] = ours["memory_bytes"] / peer["memory_bytes"]
    row["flops"], row["bytes"] = cost(arguments, 2 if precision == "bf16" else 4)
    for who, side in (("ours", ours), ("peer", timed.get(best))):
        if side and side["median_ms"]:
            seconds = side["median_ms"] / 1e3
            reached = {"flops_per_s": row["flops"] / seconds, "bytes_per_s": row["bytes"] / seconds}
            if roof["flops_per_s"] and roof["bytes_per_s"]:
                reached["of_roofline"] = max(row["flops"] / roof["flops_per_s"], row["bytes"] / roof["bytes_per_s"]) / seconds
            row["reached_" + who] = reached
    return row


def milliseconds(ms):
    return "–" if not ms else f"{ms:.2f} ms" if ms < 10 else f"{ms:.1f} ms" if ms < 100 else f"{ms:.0f} ms"


def gigabytes(n):
    return "–" if not n else f"{n / 1e9:.2f} GB"


def reached(row, who):
    found = row.get("reached_" + who)
    if not found:
        return "–"
    share = f", {100 * found['of_roofline']:.0f} %" if "of_roofline" in found else ""
    return f"{found['flops_per_s'] / 1e12:.1f} TFLOP/s, {found['bytes_per_s'] / 1e9:.0f} GB/s{share}"


def markdown(result):
    machine, checks = result["machine"], result["checks"]
    text = ["# CRMT against PyTorch on a GPU", ""]
    text += [f"- {key}: {value}" for key, value in machine.items()]
    if checks is None:
        text += ["- checks: not run"]
    else:
        bad = [c for c in checks["checks"] if not c.get("passed")]
        text += [f"- checks: {len(checks['checks']) - len(bad)} of {len(checks['checks'])} passed" + (f"; {checks['failed']}" if checks["failed"] else "")]
        text += [f"  - failed: {c.get('name')}, error {c.get('error')}, tolerance {c.get('tolerance')}" for c in bad]
    for precision, roof in result["roofline"].items():
        if roof["flops_per_s"] and roof["bytes_per_s"]:
            text += [f"- {precision}: the best matrix product has {roof['flops_per_s'] / 1e12:.1f} TFLOP/s, a copy {roof['bytes_per_s'] / 1e9:.0f} GB/s"]
    text += ["", "| case | precision | ours | best of PyTorch | ours / best (rounds) | target | | memory, ours / theirs | ours reaches | PyTorch reaches |", "|---|---|---|---|---|---|---|---|---|---|"]
    for row in result["cases"]:
        ours, best = row["ours"] or {}, row["best"]
        peer = row["peers"].get(best) or {}
        ratio, met = ("–", "–")
        if "ratio" in row:
            spread = f" ({min(row['ratios']):.2f} to {max(row['ratios']):.2f}, {len(row['ratios'])} rounds)" if row["ratios"] else ""
            ratio, met = f"{row['ratio']:.2f}{spread}", "met" if row["met"] else "missed"
        own = "failed" if ours.get("failed") else milliseconds(ours.get("median_ms"))
        theirs = f"{milliseconds(peer.get('median_ms'))}, {best}" if best else "–"
        used = f"{gigabytes(ours.get('memory_bytes'))} / {gigabytes(peer.get('memory_bytes'))}" + (f" = {row['memory_ratio']:.2f}" if "memory_ratio" in row else "")
        text += [f"| {row['case']} | {row['precision']} | {own} | {theirs} | {ratio} | {row['target']:.1f} | {met} | {used} | {reached(row, 'ours')} | {reached(row, 'peer')} |"]
    text += ["", "Ours and PyTorch took turns; times are medians of the rounds' medians, the ratio is of these, its spread that of the rounds. "
             "Reached: FLOPs and bytes of the convolutions as a plain implementation has them, in a second, and the time that the card's best "
             "product and copy would need for them as a share of the time taken."]
    failures = [(row, who, side["failed"]) for row in result["cases"] for who, side in [(OURS, row["ours"])] + list(row["peers"].items()) if side and side["failed"]]
    text += ["", "Failed:", ""] if failures else []
    text += [f"- {row['case']} {row['precision']} {who}: {why}" for row, who, why in failures]
    return "\n".join(text) + "\n"


def write(path, text):
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    os.replace(part, path)


def table(out):
    raw = out / "raw"
    if not raw.is_dir():
        sys.exit(f"gpu_table.py: {raw} is not there: start run.sh")
    machine = json.loads((raw / "machine.json").read_text()) if (raw / "machine.json").exists() else {}
    run, checks = read(raw / "checks"), None
    if run:
        listed = (run["line"] or {}).get("checks", [])
        checks = {"status": run["status"], "checks": listed, "failed": None if run["status"] == 0 and listed else f"exit code {run['status']}: {run['log'] or 'no more was said'}"}
    roofs = {precision: roofline(raw, precision) for precision in PRECISIONS}
    rows = [compare(raw, name, precision, roofs[precision]) for name in CASES for precision in PRECISIONS]
    result = {"machine": machine, "checks": checks, "roofline": roofs, "cases": [row for row in rows if row]}
    write(out / "gpu.json", json.dumps(result, indent=1) + "\n")
    write(out / "gpu.md", markdown(result))
    sound = checks and not checks["failed"] and all(c.get("passed") for c in checks["checks"])
    ran = all(row["ours"] and not row["ours"]["failed"] for row in result["cases"])
    return 0 if sound and ran else 1


def main():
    if sys.argv[1:] == ["cases"]:
        for name, (_, iterations, arguments) in CASES.items():
            print(name, iterations, arguments, sep="\t")
    elif len(sys.argv) == 3 and sys.argv[1] == "table":
        sys.exit(table(pathlib.Path(sys.argv[2])))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()

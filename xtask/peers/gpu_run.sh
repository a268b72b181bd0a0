#!/usr/bin/env bash
# Checks CRMT's CUDA program on the GPU of this machine, times it against PyTorch, and writes OUT/gpu.json and OUT/gpu.md.
# Knows how to start both and in what turns; the cases and the table are gpu_table.py's.
#
# usage: ./run.sh [OUT] [--python PYTHON] [--rounds N] [--cases "NAME..."] [--precisions "f32 tf32 bf16"]
#
# OUT is gpu-results unless named. PYTHON (python3) has PyTorch for CUDA 13, whose libraries our program uses as well.
# Everything takes hours, most of it torch.compile; the same command goes on where it was stopped, and tries again what failed.
# The card is the first of CUDA_VISIBLE_DEVICES. Exit code: 1 if a check or our program failed, 2 if something is missing.
set -euo pipefail

built_for=90
commit=unknown

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
program=$here/av_bench
oldest_driver=580
# Seconds for one start of a program.
limit=900
warmup=5

die() {
  echo "run.sh: $*" >&2
  exit 2
}

out='' python=python3 rounds=5 chosen='' precisions='f32 tf32 bf16'
while [ $# -gt 0 ]; do
  case $1 in
    --python | --rounds | --cases | --precisions)
      [ $# -ge 2 ] || die "$1 needs a value"
      case $1 in
        --python) python=$2 ;;
        --rounds) rounds=$2 ;;
        --cases) chosen=$2 ;;
        --precisions) precisions=$2 ;;
      esac
      shift 2
      ;;
    -h | --help)
      sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
      exit 0
      ;;
    -*) die "no option $1; --help lists them" ;;
    *)
      [ -z "$out" ] || die "two folders, $out and $1: name one"
      out=$1
      shift
      ;;
  esac
done
out=${out:-gpu-results}
[[ $rounds =~ ^[1-9][0-9]*$ ]] || die "--rounds must be a number from 1 up, not $rounds"
[ "$rounds" -ge 5 ] || echo "run.sh: fewer than 5 rounds say little" >&2
for precision in $precisions; do
  [[ $precision =~ ^(f32|tf32|bf16)$ ]] || die "--precisions are f32, tf32 and bf16, not $precision"
done
raw=$out/raw

# What must be there.
for file in av_bench torch_av.py gpu_table.py; do
  [ -e "$here/$file" ] || die "$file is missing beside run.sh: copy the whole folder"
done
for tool in timeout ldd awk find; do
  command -v "$tool" >/dev/null || die "no $tool: install it"
done
command -v nvidia-smi >/dev/null || die "no nvidia-smi: install NVIDIA's driver, $oldest_driver or newer"
card=${CUDA_VISIBLE_DEVICES:-0}
card=${card%%,*}
query() { nvidia-smi -i "$card" "--query-gpu=$1" --format=csv,noheader,nounits; }
described=$(query name,driver_version,compute_cap) || die "nvidia-smi finds no card $card: see nvidia-smi -L"
IFS=, read -r name driver capability <<<"$described"
driver=${driver// /} capability=${capability// /}
[[ $driver =~ ^[0-9]+ ]] && [ "${BASH_REMATCH[0]}" -ge "$oldest_driver" ] ||
  die "driver $driver is too old for CUDA 13: install $oldest_driver or newer"
[[ $capability =~ ^[0-9]+\.[0-9]+$ ]] && [ "${capability/./}" -ge "$built_for" ] ||
  die "built for compute capability $built_for and newer, $name has $capability: cargo xtask gpu-bench --compute-cap ${capability/./}"
command -v "$python" >/dev/null || die "no $python: name one that has PyTorch with --python"
mapfile -t cases < <("$python" "$here/gpu_table.py" cases)
known=$(printf '%s\n' "${cases[@]}" | cut -f 1 | tr '\n' ' ')
for case in ${chosen:=$known}; do
  [[ " $known" == *" $case "* ]] || die "no case $case; there are $known"
done
"$python" -c 'import torch' 2>/dev/null || die "$python has no PyTorch: $python -m pip install torch numpy, or --python"
export CUDA_VISIBLE_DEVICES=$card CUDA_DEVICE_ORDER=PCI_BUS_ID
"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || die "PyTorch of $python sees no GPU: it may be built for the CPU alone"

# PyTorch's wheels bring CUDA's libraries, which need not be installed otherwise.
libraries=$("$python" - <<'PYTHON'
import importlib.util, pathlib
found = importlib.util.find_spec("nvidia")
folders = {str(file.parent) for base in (found.submodule_search_locations if found else []) for file in pathlib.Path(base).glob("*/lib/*.so*")}
print(":".join(sorted(folders)))
PYTHON
)
libraries=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
linked=$(LD_LIBRARY_PATH=$libraries ldd "$program" 2>&1 || true)
old=$(awk '/version .GLIBC/ { print $4 }' <<<"$linked" | sort -u | tr '\n' ' ')
[ -z "$old" ] || die "this system's C library is older than the program's ($old): build on an older system"
missing=$(awk '/=> not found/ { print $1 }' <<<"$linked" | sort -u | tr '\n' ' ')
[ -z "$missing" ] || die "missing: $missing- PyTorch for CUDA 13 ($python -m pip install torch) or CUDA 13 with cuDNN 9 brings them"

# The same folder holds results of one program on one machine.
mkdir -p "$raw"
identity="$commit, $described, $("$python" -c 'import torch; print(torch.__version__)')"
if [ -e "$raw/identity" ] && [ "$(cat "$raw/identity")" != "$identity" ]; then
  die "$out has results of another build, card or PyTorch ($(cat "$raw/identity")): name another folder"
fi
echo "$identity" >"$raw/identity"
while IFS= read -r status; do
  [ "$(cat "$status")" = 0 ] || rm "$status"
done < <(find "$raw" -name '*.status')
CRMT="$commit, built for $built_for" CARD=$name DRIVER=$driver CAPABILITY=$capability MEMORY="$(query memory.total) MiB" \
  POWER="$(query power.limit) W" "$python" - >"$raw/machine.json" <<'PYTHON'
import json, os, platform, torch
told = {key.lower(): os.environ[key].strip() for key in ("CRMT", "CARD", "DRIVER", "CAPABILITY", "MEMORY", "POWER")}
told.update(torch=torch.__version__, cuda=torch.version.cuda, cudnn=torch.backends.cudnn.version(), python=platform.python_version(), system=platform.platform())
print(json.dumps(told))
PYTHON

# once BASE COMMAND...: runs it unless it has succeeded before; BASE.out, .log and at last .status tell how it went.
once() {
  local base=$1 status=0
  shift
  [ ! -e "$base.status" ] || return 0
  mkdir -p "$(dirname "$base")"
  timeout "$limit" "$@" >"$base.out" 2>"$base.log" </dev/null || status=$?
  echo "$status" >"$base.status"
  [ "$status" = 0 ] || echo "  failed with exit code $status: $base.log" >&2
}

sampler=''
stop_sampler() {
  [ -z "$sampler" ] || kill "$sampler" 2>/dev/null || true
  [ -z "$sampler" ] || wait "$sampler" 2>/dev/null || true
  sampler=''
}
trap stop_sampler EXIT

# sampled BASE COMMAND...: once, while the memory in use on the card goes to BASE.used.
sampled() {
  local base=$1
  [ ! -e "$base.status" ] || return 0
  mkdir -p "$(dirname "$base")"
  query memory.used >"$base.used" || true
  nvidia-smi -i "$card" --query-gpu=memory.used --format=csv,noheader,nounits -lms 50 >>"$base.used" 2>/dev/null &
  sampler=$!
  once "$@"
  stop_sampler
}

# failed FOLDER: whether a start of this program has failed; there is no use in four more.
failed() {
  local status
  for status in "$1"/*.status; do
    [ ! -e "$status" ] || [ "$(cat "$status")" = 0 ] || return 0
  done
  return 1
}

ours() { # ours HOW BASE ARGUMENTS...
  local how=$1 base=$2
  shift 2
  "$how" "$base" env "LD_LIBRARY_PATH=$libraries" CANDLE_NUM_THREADS=1 "$program" --device cuda:0 "$@"
}

torch() { # torch HOW BASE PRECISION ARGUMENTS...
  local how=$1 base=$2 precision=$3 flags=()
  shift 3
  case $precision in
    tf32) flags=(--tf32) ;;
    bf16) flags=(--amp) ;;
  esac
  "$how" "$base" "$python" "$here/torch_av.py" --device cuda:0 ${flags[@]+"${flags[@]}"} "$@"
}

# start HOW FOLDER/RUN PRECISION VARIANT ARGUMENTS...: one of the programs that take turns.
start() {
  local how=$1 base=$2 precision=$3 variant=$4
  shift 4
  case $variant in
    ours) ours "$how" "$base" --precision "$precision" "$@" ;;
    eager) torch "$how" "$base" "$precision" "$@" ;;
    channels-last) torch "$how" "$base" "$precision" "$@" --channels-last ;;
    compile) torch "$how" "$base" "$precision" "$@" --compile ;;
    compile-channels-last) torch "$how" "$base" "$precision" "$@" --compile --channels-last ;;
  esac
}
variants='ours eager channels-last compile compile-channels-last'

echo "$name, driver $driver; results go to $out"
echo "checks"
ours once "$raw/checks" --check
for precision in $precisions; do
  echo "what the card can do in $precision"
  ours once "$raw/roofline/$precision/ours" --precision "$precision" --work roofline --iters 20
  torch once "$raw/roofline/$precision/torch" "$precision" --work roofline --iters 20
done

for line in "${cases[@]}"; do
  IFS=$'\t' read -r case iterations arguments <<<"$line"
  [[ " $chosen " == *" $case "* ]] || continue
  read -ra arguments <<<"$arguments"
  for precision in $precisions; do
    for ((round = 1; round <= rounds; round++)); do
      echo "$case in $precision, round $round of $rounds"
      for variant in $variants; do
        folder=$raw/$case/$precision/$variant
        failed "$folder" || start once "$folder/$round" "$precision" "$variant" "${arguments[@]}" --iters "$iterations" --warmup "$warmup"
      done
    done
    echo "$case in $precision, memory"
    for variant in $variants; do
      folder=$raw/$case/$precision/$variant
      failed "$folder" || start sampled "$folder/memory" "$precision" "$variant" "${arguments[@]}" --iters 3 --warmup "$warmup"
    done
    # After each: an interrupted comparison has a table of what it measured.
    "$python" "$here/gpu_table.py" table "$out" || true
  done
done

status=0
"$python" "$here/gpu_table.py" table "$out" || status=1
cat "$out/gpu.md"
[ "$status" = 0 ] || echo "run.sh: a check or a run of ours failed, see above and $raw" >&2
exit "$status"

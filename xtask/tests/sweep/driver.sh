#!/bin/sh
# Stands in for the driver in the tests of the sweep: leaves a run whose accuracy is 0.5 + seed / 10,
# notes each call in the file `calls`, fails for the method `broken` and takes its time for `slow`
# unless there is a file `mended`. Like the driver it checks settings and stops on --explain, and a run
# of `slow` can be resumed. Each run says that it took 12 s: 3 of one epoch, 2 of attacks. What the file `split` says is the digest of the report split.
prev=
for arg in "$@"; do
    case "$prev" in --out) out=$arg ;; --seed) seed=$arg ;; --method) method=$arg ;; --resume) out=$arg resumed=yes ;; esac
    case "$arg" in --explain) explain=yes ;; --json) json=yes ;; esac
    prev=$arg
done
if [ "$resumed" ]; then
    method=slow seed=0
    echo "resume" >> calls
fi
if [ "$explain" ]; then
    if [ "$json" ]; then echo '{"train": {"epochs": 20}, "evaluate": {"samples": 160}}'; fi
    case "$method" in jtt) echo "error: no method jtt" >&2; exit 2 ;; *) exit 0 ;; esac
fi
echo "$method $seed" >> calls
echo "told: $*, with $RAYON_NUM_THREADS threads"
mkdir -p "$out"
if [ ! -e mended ]; then
    case "$method" in broken) echo "shapes differ" >&2; exit 3 ;; 
        slow)
            mkdir -p "$out/checkpoints"
            echo 'method = "slow"' > "$out/config.toml"
            # In the place of this shell, so that one process is all there is to end.
            exec sleep 30 ;;
    esac
fi
printf 'method = "%s"\nseed = %s\n' "$method" "$seed" > "$out/config.toml"
printf '{"phase": "step-1", "seconds": 3}\n' > "$out/metrics.jsonl"
printf '{"seconds": 12, "stages": {"evaluate": 2}, "accuracy": {"clean": 0.%s}, "warnings": [], "report_sha256": "%s"}' $((5 + seed)) "$(cat split 2>/dev/null)" > "$out/summary.json"

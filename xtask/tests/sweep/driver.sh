#!/bin/sh
# Stands in for the driver in the tests of the sweep: leaves a run whose accuracy is 0.5 + seed / 10,
# notes each call in the file `calls`, fails for the method `broken` and takes its time for `slow`
# unless there is a file `mended`. Like the driver it checks settings and stops on --explain.
prev=
for arg in "$@"; do
    case "$prev" in --out) out=$arg ;; --seed) seed=$arg ;; --method) method=$arg ;; esac
    prev=$arg
done
if [ "$prev" = --explain ]; then
    case "$method" in jtt) echo "error: no method jtt" >&2; exit 2 ;; *) exit 0 ;; esac
fi
echo "$method $seed" >> calls
echo "told: $*, with $RAYON_NUM_THREADS threads"
mkdir -p "$out"
if [ ! -e mended ]; then
    case "$method" in broken) echo "shapes differ" >&2; exit 3 ;; slow) sleep 30 ;; esac
fi
printf 'method = "%s"\nseed = %s\n' "$method" "$seed" > "$out/config.toml"
printf '{"accuracy": {"clean": 0.%s}, "warnings": []}' $((5 + seed)) > "$out/summary.json"

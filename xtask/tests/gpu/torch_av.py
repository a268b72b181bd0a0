"""Stands in for PyTorch's side: channels-last is the faster layout, and nothing can be compiled."""
import json, os, sys

with open(os.environ["FAKE_CALLS"], "a") as calls:
    print("torch", *sys.argv[1:], file=calls)
if "--compile" in sys.argv:
    sys.exit("no compiler")
if "roofline" in sys.argv:
    print(json.dumps({"gemm_gflops": 60000, "bandwidth_gb_s": 1000}))
else:
    print(json.dumps({"median_ms": 8.0 if "--channels-last" in sys.argv else 10.0}))

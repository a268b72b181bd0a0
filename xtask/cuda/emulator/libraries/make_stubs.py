#!/usr/bin/env python3
"""Writes C for the functions that cudarc's bindings name and no given object file defines: each says so and fails.

usage: make_stubs.py BINDINGS.rs ERROR_CODE [OBJECT…] > stubs.c
"""
import re
import subprocess
import sys

FUNCTION = re.compile(r"^\s*pub (?:unsafe )?fn (\w+)\s*\([^)]*\)\s*(?:->\s*([^{;]+?))?\s*[{;]", re.MULTILINE)
PREFIX = re.compile(r"(?:cu|nvrtc)")

bindings, error, *objects = sys.argv[1:]
defined = set()
for line in subprocess.run(["nm", "--defined-only", *objects], capture_output=True, text=True, check=True).stdout.splitlines() if objects else []:
    if line.strip() and not line.endswith(":"):
        defined.add(line.split()[-1])
functions = {name: result or "" for name, result in FUNCTION.findall(open(bindings).read()) if PREFIX.match(name)}

print("#include <stdio.h>")
print('static void say(const char* name) { fprintf(stderr, "CUDA emulator: %s is not emulated\\n", name); }')
for name, result in sorted(functions.items()):
    if name in defined:
        continue
    if "c_char" in result:
        print(f'const char* {name}(void) {{ return "no text for this in the CUDA emulator"; }}')
    else:
        print(f'long {name}(void) {{ say("{name}"); return {error}; }}')

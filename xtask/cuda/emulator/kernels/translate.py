#!/usr/bin/env python3
"""Turns a preprocessed kernel file into C++ that registers its kernels with the emulator.

usage: translate.py NAME < kernels.ii > kernels.cpp

The text is what `g++ -E` made of a .cu file behind cuda_as_cpp.h. Everything after that header's last line goes into
a namespace of the file's own (files may define the same helper functions differently), but for system headers.
"""
import re
import sys

BEGIN = "#pragma emulator kernels begin"
LINE_MARKER = re.compile(r'^# \d+ "[^"]*"([ \d]*)$')
DYNAMIC_SHARED = re.compile(
    r"\bextern\s+EMULATOR_SHARED\s+(?:__attribute__\s*\(\(aligned\(\d+\)\)\)\s*|alignas\s*\([^)]*\)\s*)?"
    r"(?P<type>[^;=()]*?)\b(?P<name>\w+)\s*\[\s*\]\s*;")
STATIC_SHARED = re.compile(r"\bEMULATOR_SHARED\b(?P<declaration>[^;]*);")
KERNEL = re.compile(r'\bEMULATOR_GLOBAL\b[^;{}()]*?\b(?P<name>\w+)\s*\(')


def split_at_commas(declaration):
    """The declarators of `T a[2], b<x, y>`: commas within brackets do not part them."""
    parts, depth = [""], 0
    for character in declaration:
        depth += (character in "[(<") - (character in "])>")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def declared_name(declarator):
    return re.search(r"(\w+)\s*(\[.*)?$", declarator.strip(), re.DOTALL).group(1)


def translate_static_shared(match):
    """One variable for all threads of a block, as blocks run one after another; each block finds it poisoned."""
    declaration = match["declaration"]
    enter = "".join(f" ::emulator::enter_shared_variable(&{name}, sizeof {name});"
                    for name in map(declared_name, split_at_commas(declaration)))
    return f"static{declaration};{enter}"


def namespaced(text, namespace):
    """Wraps the text in the namespace, which steps aside wherever a system header is included."""
    opening, closing = f"namespace {namespace} {{", "}"
    lines, inside = [opening], True
    for line in text.split("\n"):
        marker = LINE_MARKER.match(line)
        if marker:
            # Flag 1: a file begins; 2: back in one; 3: it is a system header. A macro of a system header makes a marker
            # with 3 only, in the middle of our text.
            flags = marker[1].split()
            if inside and "1" in flags and "3" in flags:
                lines.append(closing)
                inside = False
            elif not inside and "2" in flags and "3" not in flags:
                lines.append(opening)
                inside = True
        lines.append(line)
    if inside:
        lines.append(closing)
    return "\n".join(lines)


def main():
    namespace = "kernels_of_" + re.sub(r"\W", "_", sys.argv[1])
    header, text = sys.stdin.read().split(BEGIN, 1)
    kernels = list(dict.fromkeys(match["name"] for match in KERNEL.finditer(text)))
    text = re.sub(r'\bextern\s+"C"\s*\{', "inline namespace c_linkage {", text)
    text = re.sub(r'\bextern\s+"C"', "", text)
    text = DYNAMIC_SHARED.sub(r"\g<type>* const \g<name> = "
                              r"reinterpret_cast<\g<type>*>(::emulator::dynamic_shared_memory);", text)
    text = STATIC_SHARED.sub(translate_static_shared, text)
    text = text.replace("EMULATOR_GLOBAL", "")
    print(header)
    print(namespaced(text, namespace))
    for name in kernels:
        print(f'static const ::emulator::Registration register_{name}("{name}", &{namespace}::{name});')


main()

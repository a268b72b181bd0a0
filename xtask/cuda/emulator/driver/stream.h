// Streams, and what they do with work: run it at once, or record it while they capture a graph.
#pragma once
#include <cuda.h>

#include <functional>
#include <memory>
#include <unordered_set>
#include <vector>

namespace emulator {

using Work = std::function<CUresult()>;

struct Capture;

// Runs the work, or adds it to the graph that the stream captures. The libraries above the driver use it, too.
__attribute__((visibility("default"))) CUresult submit(CUstream stream, Work work);

// The capture that the stream takes part in; null if none.
Capture* capture_of(CUstream stream);

// Something that a capturing stream must not do was asked for: ends the capture in an error.
CUresult refuse_in_capture(CUstream stream);

// Whether the calling thread may use calls that no capture can hold, such as a synchronous copy.
CUresult check_no_capture_here();

// Memory that a graph allocates: its address is fixed while the graph is captured.
CUresult allocate_in_graph(CUstream stream, int device, size_t bytes, void** address);
CUresult free_in_graph(CUstream stream, void* address);

// Takes memory out of the hands of the graph that made it. True if a graph did.
bool release_graph_memory(void* address);

}  // namespace emulator

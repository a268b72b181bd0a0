#include "stream.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <mutex>
#include <thread>
#include <unordered_map>

#include "context.h"
#include "lock.h"
#include "memory.h"

struct CUgraph_st {
    std::vector<emulator::Work> nodes;
    std::vector<void*> memory;                     // all that it allocates
    std::unordered_set<void*> memory_left;         // what it allocates and does not free
};

// Shares its parts with the graph that it was made from: memory lives until both are gone.
struct CUgraphExec_st {
    std::shared_ptr<CUgraph_st> graph;
    bool free_on_launch;
};

namespace emulator {

struct Capture {
    std::shared_ptr<CUgraph_st> graph = std::make_shared<CUgraph_st>();
    CUstream origin;
    CUstreamCaptureMode mode;
    std::thread::id thread;
    bool invalidated = false;
    std::vector<CUstream> streams;  // the origin, and those that joined by waiting for its events
    unsigned long long id = 0;
};

}  // namespace emulator

using namespace emulator;

struct CUstream_st {
    CUctx_st* context;
    unsigned flags;
    int priority;
    std::shared_ptr<Capture> capture;
};

struct CUevent_st {
    unsigned flags;
    bool recorded = false;
    std::weak_ptr<Capture> capture;
    bool of_capture = false;
    std::chrono::steady_clock::time_point time;
};

namespace emulator {
namespace {

std::unordered_set<CUstream> streams;  // all created ones
std::unordered_set<CUevent> events;
std::vector<std::shared_ptr<Capture>> captures;  // all that go on
std::unordered_map<CUgraph, std::shared_ptr<CUgraph_st>> graphs;
std::unordered_set<CUgraphExec> executables;
std::unordered_map<void*, std::weak_ptr<CUgraph_st>> graph_memory;
unsigned long long captures_begun;

bool is_legacy(CUstream stream) { return stream == nullptr || stream == CU_STREAM_LEGACY; }

// The stream behind a handle: the default streams have reserved ones. Null if it is no stream.
CUstream_st* resolve(CUstream stream) {
    static CUstream_st legacy{};
    thread_local CUstream_st per_thread{};
    if (is_legacy(stream)) return &legacy;
    if (stream == CU_STREAM_PER_THREAD) return &per_thread;
    return streams.count(stream) ? stream : nullptr;
}

void end(const std::shared_ptr<Capture>& capture) {
    for (CUstream stream : capture->streams)
        if (auto known = resolve(stream)) known->capture = nullptr;
    captures.erase(std::remove(captures.begin(), captures.end(), capture), captures.end());
}

void free_memory_of(CUgraph_st& graph) {
    for (void* address : graph.memory)
        if (graph_memory.erase(address)) {
            set_present(address, true);
            release(address, "cuGraphDestroy");
        }
}

std::shared_ptr<CUgraph_st> with_memory_freed(std::shared_ptr<CUgraph_st> graph) {
    return std::shared_ptr<CUgraph_st>(graph.get(), [graph](CUgraph_st* self) { free_memory_of(*self); });
}

CUresult run_graph(CUgraphExec executable) {
    for (void* address : executable->graph->memory_left)
        if (is_allocation(address)) {
            if (!executable->free_on_launch) return CUDA_ERROR_INVALID_VALUE;
            set_present(address, false);
        }
    for (auto& node : executable->graph->nodes)
        if (CUresult result = node()) return result;
    return CUDA_SUCCESS;
}

}  // namespace

Capture* capture_of(CUstream stream) {
    Locked locked;
    auto known = resolve(stream);
    return known ? known->capture.get() : nullptr;
}

CUresult submit(CUstream stream, Work work) {
    Locked locked;
    auto known = resolve(stream);
    if (!known) return CUDA_ERROR_INVALID_HANDLE;
    if (!known->capture) {
        // The legacy stream waits for blocking streams, which no capture can do.
        if (is_legacy(stream))
            for (auto& capture : captures)
                if (resolve(capture->origin) && !(resolve(capture->origin)->flags & CU_STREAM_NON_BLOCKING)) {
                    capture->invalidated = true;
                    return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
                }
        return work();
    }
    if (known->capture->invalidated) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    known->capture->graph->nodes.push_back(std::move(work));
    return CUDA_SUCCESS;
}

CUresult refuse_in_capture(CUstream stream) {
    if (auto capture = capture_of(stream)) {
        capture->invalidated = true;
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    return CUDA_SUCCESS;
}

CUresult check_no_capture_here() {
    Locked locked;
    for (auto& capture : captures) {
        bool concerns_us = capture->mode == CU_STREAM_CAPTURE_MODE_GLOBAL ||
                           (capture->mode == CU_STREAM_CAPTURE_MODE_THREAD_LOCAL && capture->thread == std::this_thread::get_id());
        if (concerns_us) {
            capture->invalidated = true;
            return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        }
    }
    return CUDA_SUCCESS;
}

CUresult allocate_in_graph(CUstream stream, int device, size_t bytes, void** address) {
    Locked locked;
    auto graph = resolve(stream)->capture->graph;
    if (CUresult result = allocate(device, bytes, MemoryKind::device, address)) return result;
    void* memory = *address;
    set_present(memory, false);
    graph->memory.push_back(memory);
    graph->memory_left.insert(memory);
    graph_memory[memory] = graph;
    return submit(stream, [memory] {
        set_present(memory, true);
        return CUDA_SUCCESS;
    });
}

CUresult free_in_graph(CUstream stream, void* address) {
    Locked locked;
    auto graph = resolve(stream)->capture->graph;
    if (!graph->memory_left.erase(address)) return CUDA_ERROR_INVALID_VALUE;
    return submit(stream, [address] {
        set_present(address, false);
        return CUDA_SUCCESS;
    });
}

bool release_graph_memory(void* address) {
    Locked locked;
    if (!graph_memory.count(address)) return false;
    set_present(address, false);
    return true;
}

}  // namespace emulator

extern "C" {

CUresult CUDAAPI cuStreamCreateWithPriority(CUstream* stream, unsigned flags, int priority) {
    Locked locked;
    if (!current_context()) return CUDA_ERROR_INVALID_CONTEXT;
    *stream = new CUstream_st{current_context(), flags, priority, nullptr};
    streams.insert(*stream);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuStreamCreate(CUstream* stream, unsigned flags) { return cuStreamCreateWithPriority(stream, flags, 0); }

CUresult CUDAAPI cuStreamDestroy(CUstream stream) {
    Locked locked;
    if (!streams.erase(stream)) return CUDA_ERROR_INVALID_HANDLE;
    if (stream->capture) stream->capture->invalidated = true;
    delete stream;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuStreamGetFlags(CUstream stream, unsigned* flags) {
    Locked locked;
    if (!resolve(stream)) return CUDA_ERROR_INVALID_HANDLE;
    *flags = resolve(stream)->flags;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuStreamSynchronize(CUstream stream) {
    Locked locked;
    if (!resolve(stream)) return CUDA_ERROR_INVALID_HANDLE;
    return refuse_in_capture(stream);
}

CUresult CUDAAPI cuStreamQuery(CUstream stream) { return cuStreamSynchronize(stream); }

CUresult CUDAAPI cuCtxSynchronize() {
    if (!current_context()) return CUDA_ERROR_INVALID_CONTEXT;
    return check_no_capture_here();
}

CUresult CUDAAPI cuStreamAttachMemAsync(CUstream, CUdeviceptr, size_t, unsigned) { return CUDA_SUCCESS; }

CUresult CUDAAPI cuLaunchHostFunc(CUstream stream, CUhostFn function, void* data) {
    return submit(stream, [=] {
        function(data);
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuEventCreate(CUevent* event, unsigned flags) {
    Locked locked;
    if (!current_context()) return CUDA_ERROR_INVALID_CONTEXT;
    *event = new CUevent_st{flags};
    events.insert(*event);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuEventDestroy(CUevent event) {
    Locked locked;
    if (!events.erase(event)) return CUDA_ERROR_INVALID_HANDLE;
    delete event;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuEventRecord(CUevent event, CUstream stream) {
    Locked locked;
    auto known = resolve(stream);
    if (!known || !events.count(event)) return CUDA_ERROR_INVALID_HANDLE;
    event->recorded = true;
    event->of_capture = known->capture != nullptr;
    event->capture = known->capture;
    event->time = std::chrono::steady_clock::now();
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuEventSynchronize(CUevent event) {
    Locked locked;
    if (!events.count(event)) return CUDA_ERROR_INVALID_HANDLE;
    if (event->of_capture) {
        if (auto capture = event->capture.lock()) capture->invalidated = true;
        return CUDA_ERROR_CAPTURED_EVENT;
    }
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuEventQuery(CUevent event) { return cuEventSynchronize(event); }

CUresult CUDAAPI cuEventElapsedTime(float* milliseconds, CUevent begin, CUevent end) {
    Locked locked;
    if (!events.count(begin) || !events.count(end) || !begin->recorded || !end->recorded) return CUDA_ERROR_INVALID_HANDLE;
    if ((begin->flags | end->flags) & CU_EVENT_DISABLE_TIMING) return CUDA_ERROR_INVALID_HANDLE;
    *milliseconds = std::chrono::duration<float, std::milli>(end->time - begin->time).count();
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuStreamWaitEvent(CUstream stream, CUevent event, unsigned) {
    Locked locked;
    auto known = resolve(stream);
    if (!known || !events.count(event)) return CUDA_ERROR_INVALID_HANDLE;
    if (!event->recorded) return CUDA_SUCCESS;
    auto captured = event->capture.lock();
    if (known->capture && known->capture != captured) {
        // A graph cannot wait for what lies outside of it.
        known->capture->invalidated = true;
        return CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
    }
    if (captured && !known->capture) {
        if (is_legacy(stream)) return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
        known->capture = captured;
        captured->streams.push_back(stream);
    }
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuStreamBeginCapture(CUstream stream, CUstreamCaptureMode mode) {
    Locked locked;
    auto known = resolve(stream);
    if (!known) return CUDA_ERROR_INVALID_HANDLE;
    if (is_legacy(stream)) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    if (known->capture) return CUDA_ERROR_ILLEGAL_STATE;
    auto capture = std::make_shared<Capture>();
    capture->origin = stream;
    capture->mode = mode;
    capture->thread = std::this_thread::get_id();
    capture->streams = {stream};
    capture->id = ++captures_begun;
    known->capture = capture;
    captures.push_back(capture);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuStreamEndCapture(CUstream stream, CUgraph* graph) {
    Locked locked;
    *graph = nullptr;
    auto known = resolve(stream);
    if (!known) return CUDA_ERROR_INVALID_HANDLE;
    auto capture = known->capture;
    if (!capture) return CUDA_ERROR_ILLEGAL_STATE;
    if (capture->origin != stream) return CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
    if (capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED && capture->thread != std::this_thread::get_id())
        return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
    end(capture);
    auto owned = with_memory_freed(capture->graph);
    if (capture->invalidated) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    *graph = owned.get();
    graphs[*graph] = owned;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus* status) {
    Locked locked;
    if (!resolve(stream)) return CUDA_ERROR_INVALID_HANDLE;
    auto capture = capture_of(stream);
    *status = !capture                ? CU_STREAM_CAPTURE_STATUS_NONE
              : capture->invalidated ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                                     : CU_STREAM_CAPTURE_STATUS_ACTIVE;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGraphInstantiate(CUgraphExec* executable, CUgraph graph, unsigned long long flags) {
    Locked locked;
    auto found = graphs.find(graph);
    if (found == graphs.end()) return CUDA_ERROR_INVALID_VALUE;
    *executable = new CUgraphExec_st{found->second, (flags & CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH) != 0};
    executables.insert(*executable);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGraphUpload(CUgraphExec executable, CUstream) {
    Locked locked;
    return executables.count(executable) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuGraphLaunch(CUgraphExec executable, CUstream stream) {
    Locked locked;
    if (!executables.count(executable)) return CUDA_ERROR_INVALID_VALUE;
    return submit(stream, [executable] { return run_graph(executable); });
}

CUresult CUDAAPI cuGraphExecDestroy(CUgraphExec executable) {
    Locked locked;
    if (!executables.erase(executable)) return CUDA_ERROR_INVALID_VALUE;
    delete executable;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGraphDestroy(CUgraph graph) {
    Locked locked;
    return graphs.erase(graph) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuGraphGetNodes(CUgraph graph, CUgraphNode*, size_t* count) {
    Locked locked;
    if (!graphs.count(graph)) return CUDA_ERROR_INVALID_VALUE;
    *count = graph->nodes.size();
    return CUDA_SUCCESS;
}

}  // extern "C"

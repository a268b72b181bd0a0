// Tests of the emulator through the driver API, as a program would use it. Built and run by `make test`.
#include <cuda.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#define EXPECT(CONDITION)                                                              \
    do {                                                                               \
        if (!(CONDITION)) {                                                            \
            std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #CONDITION); \
            failures++;                                                                \
        }                                                                              \
    } while (0)
#define SUCCEEDS(CALL) EXPECT((CALL) == CUDA_SUCCESS)

static int failures;
static CUmodule module;

static const char* names[] = {"sum_of_block", "sum_bf16", "reverse", "early_exit", "xor_in_eights", "vote", "count_up",
                              "add", "read_unwritten_shared", "wait_for_ever", "overrun", "only_in_ptx"};

static std::string ptx() {
    std::string text = ".version 8.0\n.target sm_80\n";
    for (auto name : names)
        text += std::string(".visible .entry ") + name + "(\n)\n" + (name == std::string("sum_bf16") ? ".maxntid 256, 1, 1\n" : "") + "{\nret;\n}\n";
    return text;
}

static CUfunction function(const char* name) {
    CUfunction found = nullptr;
    SUCCEEDS(cuModuleGetFunction(&found, module, name));
    return found;
}

template <class... Arguments>
static CUresult launch_on(CUstream stream, const char* name, unsigned grid, unsigned block, unsigned shared, Arguments... arguments) {
    void* addresses[] = {static_cast<void*>(&arguments)..., nullptr};
    return cuLaunchKernel(function(name), grid, 1, 1, block, 1, 1, shared, stream, addresses, nullptr);
}

template <class... Arguments>
static CUresult launch(const char* name, unsigned grid, unsigned block, unsigned shared, Arguments... arguments) {
    return launch_on(nullptr, name, grid, block, shared, arguments...);
}

template <class T>
static CUdeviceptr upload(const std::vector<T>& values) {
    CUdeviceptr address;
    SUCCEEDS(cuMemAlloc(&address, values.size() * sizeof(T)));
    SUCCEEDS(cuMemcpyHtoD(address, values.data(), values.size() * sizeof(T)));
    return address;
}

template <class T>
static std::vector<T> download(CUdeviceptr address, size_t count) {
    std::vector<T> values(count);
    SUCCEEDS(cuMemcpyDtoH(values.data(), address, count * sizeof(T)));
    return values;
}

// Whether the body, run in a process of its own, aborts.
static bool aborts(const std::function<void()>& body) {
    pid_t child = fork();
    if (child == 0) {
        std::freopen("/dev/null", "w", stderr);
        body();
        _exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

static void blocks_and_warps() {
    std::vector<float> values(3 * 128);
    std::iota(values.begin(), values.end(), 0.0f);
    CUdeviceptr in = upload(values), out = upload(std::vector<float>(4));
    SUCCEEDS(launch("sum_of_block", 3, 128, 0, in, out));
    auto sums = download<float>(out, 3);
    for (int i = 0; i < 3; ++i) EXPECT(sums[i] == 128 * (128 * i + 127 / 2.0f));

    SUCCEEDS(launch("reverse", 1, 128, 100 * 4, in, 100));
    EXPECT(download<float>(in, 100)[3] == 96);

    CUdeviceptr ints = upload(std::vector<int>(64));
    SUCCEEDS(launch("early_exit", 1, 64, 0, ints, 40));
    EXPECT(download<int>(ints, 40)[39] == 40);
    SUCCEEDS(launch("xor_in_eights", 1, 64, 0, ints));
    auto swapped = download<int>(ints, 64);
    for (int i = 0; i < 64; ++i) EXPECT(swapped[i] == (i ^ 3));
    SUCCEEDS(launch("vote", 1, 32, 0, ints));
    EXPECT(download<unsigned>(ints, 1)[0] == 0x49249249);

    CUdeviceptr counter = upload(std::vector<unsigned>{0}), sum = upload(std::vector<float>{0});
    SUCCEEDS(launch("count_up", 1000, 1000, 0, counter, sum));
    EXPECT(download<unsigned>(counter, 1)[0] == 1000000);
    EXPECT(download<float>(sum, 1)[0] == 500000);

    SUCCEEDS(launch("read_unwritten_shared", 1, 4, 0, out));
    EXPECT(std::isnan(download<float>(out, 1)[0]));
    EXPECT(aborts([] { launch("wait_for_ever", 1, 32, 0); }));
    for (CUdeviceptr address : {in, out, ints, counter, sum}) SUCCEEDS(cuMemFree(address));
}

static void refusals() {
    CUdeviceptr data = upload(std::vector<float>(32));
    CUfunction found;
    EXPECT(cuModuleGetFunction(&found, module, "nowhere") == CUDA_ERROR_NOT_FOUND);
    EXPECT(cuModuleGetFunction(&found, module, "only_in_ptx") == CUDA_ERROR_NOT_FOUND);
    EXPECT(launch("add", 1, 1025, 0, data, 1.0f, 32) == CUDA_ERROR_INVALID_VALUE);
    EXPECT(launch("add", 0, 32, 0, data, 1.0f, 32) == CUDA_ERROR_INVALID_VALUE);
    EXPECT(launch("add", 1, 32, 48 * 1024 + 4, data, 1.0f, 32) == CUDA_ERROR_INVALID_VALUE);
    EXPECT(launch("sum_bf16", 1, 512, 0, data, data) == CUDA_ERROR_INVALID_VALUE);
    SUCCEEDS(launch("reverse", 1, 32, 48 * 1024, data, 32));
    SUCCEEDS(cuFuncSetAttribute(function("reverse"), CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 100 * 1024));
    SUCCEEDS(launch("reverse", 1, 32, 100 * 1024, data, 32));
    std::vector<float> of_host(32);
    EXPECT(launch("add", 1, 32, 0, of_host.data(), 1.0f, 32) == CUDA_ERROR_ILLEGAL_ADDRESS);
    EXPECT(cuMemcpyDtoH(of_host.data(), data, 33 * 4) == CUDA_ERROR_INVALID_VALUE);
    EXPECT(cuMemsetD8(data + 120, 0, 9) == CUDA_ERROR_INVALID_VALUE);
    CUdeviceptr large;
    EXPECT(cuMemAlloc(&large, size_t(1) << 50) == CUDA_ERROR_OUT_OF_MEMORY);
    SUCCEEDS(cuMemFree(data));
    EXPECT(launch("add", 1, 32, 0, data, 1.0f, 32) == CUDA_ERROR_ILLEGAL_ADDRESS);
    EXPECT(aborts([=] { cuMemFree(data); }));
    EXPECT(aborts([] {
        CUdeviceptr overrun = upload(std::vector<float>(32));
        launch("overrun", 1, 1, 0, overrun, 32);
        cuMemFree(overrun);
    }));
}

static void fresh_memory_is_poisoned() {
    CUdeviceptr data;
    SUCCEEDS(cuMemAlloc(&data, 64));
    EXPECT(std::isnan(download<float>(data, 16)[7]));
    SUCCEEDS(cuMemFree(data));
}

static void graphs() {
    CUstream stream;
    SUCCEEDS(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CUdeviceptr data = upload(std::vector<float>(32));
    SUCCEEDS(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    SUCCEEDS(launch_on(stream, "add", 1, 32, 0, data, 1.0f, 32));
    CUdeviceptr scratch;
    SUCCEEDS(cuMemAllocAsync(&scratch, 128, stream));
    SUCCEEDS(cuMemcpyDtoDAsync(scratch, data, 128, stream));
    SUCCEEDS(launch_on(stream, "add", 1, 32, 0, scratch, 10.0f, 32));
    SUCCEEDS(cuMemcpyDtoDAsync(data, scratch, 128, stream));
    SUCCEEDS(cuMemFreeAsync(scratch, stream));
    CUstreamCaptureStatus status;
    SUCCEEDS(cuStreamIsCapturing(stream, &status));
    EXPECT(status == CU_STREAM_CAPTURE_STATUS_ACTIVE);
    CUgraph graph;
    SUCCEEDS(cuStreamEndCapture(stream, &graph));
    EXPECT(download<float>(data, 32)[31] == 0);  // nothing has run yet
    CUgraphExec executable;
    SUCCEEDS(cuGraphInstantiate(&executable, graph, 0));
    for (int i = 0; i < 3; ++i) SUCCEEDS(cuGraphLaunch(executable, stream));
    SUCCEEDS(cuStreamSynchronize(stream));
    EXPECT(download<float>(data, 32)[31] == 33);
    SUCCEEDS(cuGraphExecDestroy(executable));
    SUCCEEDS(cuGraphDestroy(graph));

    auto refused = [&](const std::function<CUresult()>& call, CUresult with) {
        SUCCEEDS(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
        EXPECT(call() == with);
        EXPECT(cuStreamEndCapture(stream, &graph) == CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        EXPECT(graph == nullptr);
    };
    std::vector<float> of_host(32);
    CUdeviceptr other;
    refused([&] { return cuMemcpyDtoHAsync(of_host.data(), data, 128, stream); }, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    refused([&] { return cuStreamSynchronize(stream); }, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    refused([&] { return cuMemAlloc(&other, 16); }, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    CUevent event;
    SUCCEEDS(cuEventCreate(&event, 0));
    SUCCEEDS(cuEventRecord(event, nullptr));
    refused([&] { return cuStreamWaitEvent(stream, event, 0); }, CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
    SUCCEEDS(cuEventDestroy(event));
    SUCCEEDS(cuMemFree(data));
    SUCCEEDS(cuStreamDestroy(stream));
}

int main() {
    EXPECT(aborts([] {
        setenv("CUDA_EMULATOR_DEVICES", "0", 1);
        if (cuInit(0) == CUDA_ERROR_NO_DEVICE) std::abort();
    }));
    int count;
    EXPECT(cuDeviceGetCount(&count) == CUDA_ERROR_NOT_INITIALIZED);
    SUCCEEDS(cuInit(0));
    CUcontext context;
    SUCCEEDS(cuDevicePrimaryCtxRetain(&context, 0));
    SUCCEEDS(cuCtxSetCurrent(context));
    SUCCEEDS(cuModuleLoadData(&module, ptx().c_str()));
    blocks_and_warps();
    refusals();
    fresh_memory_is_poisoned();
    graphs();
    std::printf("%s\n", failures ? "FAILED" : "all as on a GPU");
    return failures != 0;
}

// cuGetErrorName and cuGetErrorString, for the errors that the emulator gives.
#include <cuda.h>

#include <cstring>

namespace {

struct Description {
    CUresult error;
    const char* name;
    const char* text;
};

#define DESCRIPTION(ERROR, TEXT) {ERROR, #ERROR, TEXT}
const Description descriptions[] = {
    DESCRIPTION(CUDA_SUCCESS, "no error"),
    DESCRIPTION(CUDA_ERROR_INVALID_VALUE, "invalid argument"),
    DESCRIPTION(CUDA_ERROR_OUT_OF_MEMORY, "out of memory"),
    DESCRIPTION(CUDA_ERROR_NOT_INITIALIZED, "initialization error"),
    DESCRIPTION(CUDA_ERROR_NO_DEVICE, "no CUDA-capable device is detected"),
    DESCRIPTION(CUDA_ERROR_INVALID_DEVICE, "invalid device ordinal"),
    DESCRIPTION(CUDA_ERROR_INVALID_IMAGE, "device kernel image is invalid"),
    DESCRIPTION(CUDA_ERROR_INVALID_CONTEXT, "invalid device context"),
    DESCRIPTION(CUDA_ERROR_FILE_NOT_FOUND, "file not found"),
    DESCRIPTION(CUDA_ERROR_INVALID_HANDLE, "invalid resource handle"),
    DESCRIPTION(CUDA_ERROR_ILLEGAL_STATE, "the operation cannot be performed in the present state"),
    DESCRIPTION(CUDA_ERROR_NOT_FOUND, "named symbol not found"),
    DESCRIPTION(CUDA_ERROR_ILLEGAL_ADDRESS, "an illegal memory access was encountered"),
    DESCRIPTION(CUDA_ERROR_NOT_SUPPORTED, "operation not supported"),
    DESCRIPTION(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "operation not permitted when stream is capturing"),
    DESCRIPTION(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "operation failed due to a previous error during capture"),
    DESCRIPTION(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, "capture was not ended in the same stream as it began"),
    DESCRIPTION(CUDA_ERROR_STREAM_CAPTURE_ISOLATION, "dependency created on uncaptured work in another stream"),
    DESCRIPTION(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, "operation would make the legacy stream depend on a capturing blocking stream"),
    DESCRIPTION(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, "attempt to terminate a thread-local capture sequence from another thread"),
    DESCRIPTION(CUDA_ERROR_CAPTURED_EVENT, "operation not permitted on an event last recorded in a capturing stream"),
    DESCRIPTION(CUDA_ERROR_UNKNOWN, "unknown error"),
};
#undef DESCRIPTION

const Description* describe(CUresult error) {
    for (auto& description : descriptions)
        if (description.error == error) return &description;
    return nullptr;
}

}  // namespace

extern "C" {

CUresult CUDAAPI cuGetErrorName(CUresult error, const char** name) {
    auto description = describe(error);
    *name = description ? description->name : nullptr;
    return description ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuGetErrorString(CUresult error, const char** text) {
    auto description = describe(error);
    *text = description ? description->text : nullptr;
    return description ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

}  // extern "C"

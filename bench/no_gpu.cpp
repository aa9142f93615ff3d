// Loaded before torch's libraries, this answers what they would ask of CUDA's driver as one H100
// would, so that fake tensors on "cuda" go through autograd, and attention chooses its kernel as it
// would there. Nothing can be computed on it.
//
//     g++ -O1 -shared -fPIC bench/no_gpu.cpp -o no_gpu.so -I (torch's and CUDA's headers)

#include <c10/core/Device.h>
#include <c10/core/Stream.h>
#include <c10/cuda/CUDAStream.h>

#include <cstring>

#define SEEN __attribute__((visibility("default")))

namespace c10::cuda {
SEEN bool hasPrimaryContext(DeviceIndex) { return false; }
SEEN DeviceIndex device_count() noexcept { return 1; }
SEEN DeviceIndex device_count_ensure_non_zero() { return 1; }
SEEN DeviceIndex current_device() { return 0; }
SEEN void set_device(DeviceIndex, bool) {}
SEEN cudaError_t GetDevice(DeviceIndex* device) {
  *device = 0;
  return cudaSuccess;
}
SEEN cudaError_t SetDevice(DeviceIndex, bool) { return cudaSuccess; }
SEEN cudaError_t MaybeSetDevice(DeviceIndex) { return cudaSuccess; }
SEEN DeviceIndex ExchangeDevice(DeviceIndex) { return 0; }
SEEN DeviceIndex MaybeExchangeDevice(DeviceIndex) { return 0; }
SEEN void SetTargetDevice() {}
SEEN cudaError_t GetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
static CUDAStream the_only_one() {
  Stream stream(Stream::DEFAULT, Device(DeviceType::CUDA, 0));
  return CUDAStream(CUDAStream::UNCHECKED, stream);
}
SEEN CUDAStream getCurrentCUDAStream(DeviceIndex) { return the_only_one(); }
SEEN CUDAStream getDefaultCUDAStream(DeviceIndex) { return the_only_one(); }
SEEN void setCurrentCUDAStream(CUDAStream) {}
}  // namespace c10::cuda

namespace at::cuda::detail {
SEEN bool hasPrimaryContext(c10::DeviceIndex) { return false; }
struct CUDAHooks {
  bool hasPrimaryContext(c10::DeviceIndex) const;
};
SEEN bool CUDAHooks::hasPrimaryContext(c10::DeviceIndex) const { return false; }
}  // namespace at::cuda::detail

namespace at::cuda {
SEEN cudaDeviceProp* getCurrentDeviceProperties() {
  static cudaDeviceProp h100 = [] {
    cudaDeviceProp p;
    std::memset(&p, 0, sizeof p);
    std::strcpy(p.name, "NVIDIA H100 80GB HBM3");
    p.major = 9;
    p.multiProcessorCount = 132;
    p.warpSize = 32;
    p.totalGlobalMem = 85000000000ull;
    p.sharedMemPerBlock = 49152;
    p.sharedMemPerBlockOptin = 232448;
    p.sharedMemPerMultiprocessor = 233472;
    p.maxThreadsPerMultiProcessor = 2048;
    p.l2CacheSize = 50 << 20;
    return p;
  }();
  return &h100;
}
SEEN cudaDeviceProp* getDeviceProperties(signed char) { return getCurrentDeviceProperties(); }
}  // namespace at::cuda

// The driver itself, for which this library stands as well: it says that there is nothing to use.
extern "C" {
SEEN CUresult cuDevicePrimaryCtxGetState(CUdevice, unsigned* flags, int* active) {
  *flags = 0;
  *active = 0;
  return CUDA_SUCCESS;
}
SEEN CUresult cuInit(unsigned) { return CUDA_ERROR_NO_DEVICE; }
SEEN CUresult cuDriverGetVersion(int* version) {
  *version = 13000;
  return CUDA_SUCCESS;
}
}

// The kernel as a custom operator of ONNX Runtime, domain ai.sgn, for its CPU provider and, where SGN_CUDA is defined,
// its CUDA provider. It uses the C interface alone, which stays binary compatible from release to release. reference.py
// says what it computes; tensors are contiguous (N, C, H, W).

#include <onnxruntime_c_api.h>

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "cpu_loops.h"

#if defined(SGN_CUDA)
#include "cuda_grids.h"
#endif

namespace {

using sgn::BFloat16;
using sgn::Half;
using sgn::Layout;

// The oldest interface that has every function used here: one build serves every ONNX Runtime from 1.18 on.
constexpr uint32_t INTERFACE_VERSION = 18;
constexpr const char* DOMAIN_NAME = "ai.sgn";

const OrtApi* api = nullptr;  // set when the library is registered

// An error in the form that ONNX Runtime takes it, thrown until the library is left.
struct Failure {
  OrtStatus* status;
};

void check(OrtStatus* status) {
  if (status != nullptr) throw Failure{status};
}

void require(bool condition, const std::string& message) {
  if (!condition) throw Failure{api->CreateStatus(ORT_INVALID_ARGUMENT, message.c_str())};
}

// Calls the function and returns what it throws as a status for ONNX Runtime: no exception leaves the library.
template <typename Function>
OrtStatus* guarded(const Function& function) {
  try {
    function();
    return nullptr;
  } catch (const Failure& failure) {
    return failure.status;
  } catch (const std::exception& error) {
    return api->CreateStatus(ORT_FAIL, error.what());
  }
}

template <typename T>
constexpr ONNXTensorElementDataType TYPE_OF = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
template <>
constexpr ONNXTensorElementDataType TYPE_OF<float> = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
template <>
constexpr ONNXTensorElementDataType TYPE_OF<Half> = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
template <>
constexpr ONNXTensorElementDataType TYPE_OF<BFloat16> = ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16;

using Shape = std::vector<int64_t>;

// An operator's input. ONNX Runtime has checked that its type is T.
template <typename T>
struct Input {
  const T* data = nullptr;
  Shape shape;

  Input(OrtKernelContext* context, size_t index) {
    const OrtValue* value = nullptr;
    check(api->KernelContext_GetInput(context, index, &value));
    void* address = nullptr;
    check(api->GetTensorMutableData(const_cast<OrtValue*>(value), &address));
    data = static_cast<const T*>(address);
    OrtTensorTypeAndShapeInfo* info = nullptr;
    check(api->GetTensorTypeAndShape(value, &info));
    size_t rank = 0;
    OrtStatus* status = api->GetDimensionsCount(info, &rank);
    if (status == nullptr) {
      shape.resize(rank);
      status = api->GetDimensions(info, shape.data(), rank);
    }
    api->ReleaseTensorTypeAndShapeInfo(info);
    check(status);
  }
};

template <typename T>
T* output(OrtKernelContext* context, size_t index, const Shape& shape) {
  OrtValue* value = nullptr;
  check(api->KernelContext_GetOutput(context, index, shape.data(), shape.size(), &value));
  void* data = nullptr;
  check(api->GetTensorMutableData(value, &data));
  return static_cast<T*>(data);
}

Layout layout_of(const Shape& shape, const char* name) {
  require(shape.size() == 4, std::string(name) + " must be (N, C, H, W)");
  return Layout{shape[0], shape[1], shape[2] * shape[3], false};
}

// The providers that the kernel runs on; both classes have the same function.
struct OnCpu {
  static constexpr const char* PROVIDER = nullptr;  // ONNX Runtime's name for its CPU provider

  OrtKernelContext* context;

  explicit OnCpu(OrtKernelContext* context) : context(context) {}

  // Runs parts of the range on ONNX Runtime's own threads.
  template <typename Function>
  void operator()(int64_t count, int64_t grain, const Function& function) const {
    if (count <= grain) {
      if (count > 0) function(0, count);
      return;
    }
    struct Range {
      int64_t count, grain;
      const Function& function;
    } range{count, grain, function};
    const auto part = [](void* data, size_t index) {
      const Range& range = *static_cast<const Range*>(data);
      const int64_t begin = int64_t(index) * range.grain;
      range.function(begin, std::min(range.count, begin + range.grain));
    };
    check(api->KernelContext_ParallelFor(context, part, size_t((count + grain - 1) / grain), 0, &range));
  }

  template <typename T>
  void block(const T* image, const T* gradient, T* result, const Layout& layout, const float* weights, int64_t layers,
             float scale, bool rms) const {
    sgn::self_gradient_block_on_cpu(image, gradient, result, layout, weights, layers, scale, rms, *this);
  }
};

#if defined(SGN_CUDA)
struct OnCuda {
  static constexpr const char* PROVIDER = "CUDAExecutionProvider";

  cudaStream_t stream;

  explicit OnCuda(OrtKernelContext* context) {
    void* handle = nullptr;
    ::check(api->KernelContext_GetGPUComputeStream(context, &handle));
    stream = static_cast<cudaStream_t>(handle);
  }

  static void check(cudaError_t error) {
    require(error == cudaSuccess, std::string("a fused kernel could not be started: ") + cudaGetErrorString(error));
  }

  template <typename T>
  void block(const T* image, const T* gradient, T* result, const Layout& layout, const float* weights, int64_t layers,
             float scale, bool rms) const {
    const size_t bytes = size_t(sgn::self_gradient_block_workspace(layout, rms)) * sizeof(float);
    void* workspace = nullptr;
    if (bytes > 0) check(cudaMallocAsync(&workspace, bytes, stream));
    const cudaError_t error =
        sgn::self_gradient_block_on_cuda(image, gradient, result, layout, weights, layers, scale, rms,
                                         static_cast<float*>(workspace), stream);
    if (bytes > 0) check(cudaFreeAsync(workspace, stream));  // takes effect after the kernel
    check(error);
  }
};
#endif

// The operator: the types of its inputs and outputs, its attributes, and its computation.

template <typename T, typename Where>
class SelfGradientBlock {
 public:
  using Place = Where;
  static constexpr const char* NAME = "SelfGradientBlock";
  static constexpr std::array INPUTS{TYPE_OF<T>, TYPE_OF<T>, TYPE_OF<float>};
  static constexpr std::array OUTPUTS{TYPE_OF<T>};

  explicit SelfGradientBlock(const OrtKernelInfo* info) {
    check(api->KernelInfoGetAttribute_float(info, "scale", &scale_));
    check(api->KernelInfoGetAttribute_int64(info, "rms", &rms_));
  }

  void compute(OrtKernelContext* context) const {
    const Input<T> image(context, 0), gradient(context, 1);
    const Input<float> weights(context, 2);
    const Layout layout = layout_of(image.shape, "image");
    require(gradient.shape == image.shape, "gradient must have image's shape");
    require(layout.channels >= 1 && layout.channels <= sgn::MAX_CHANNELS, "image must have 1 to 4 channels");
    require(weights.shape.size() == 3 && weights.shape[0] >= 1 && weights.shape[0] <= sgn::MAX_LAYERS &&
                weights.shape[1] == layout.channels && weights.shape[2] == layout.channels,
            "weights must be (layers, C, C) with 1 to 64 layers");
    T* result = output<T>(context, 0, image.shape);
    Where(context).block(image.data, gradient.data, result, layout, weights.data, weights.shape[0], scale_, rms_ != 0);
  }

 private:
  float scale_ = 1.0f;
  int64_t rms_ = 0;
};

// The operator as the table of functions that ONNX Runtime calls.
template <typename Operator>
struct Registration : OrtCustomOp {
  Registration() : OrtCustomOp{} {
    version = INTERFACE_VERSION;
    GetName = [](const OrtCustomOp*) { return Operator::NAME; };
    GetExecutionProviderType = [](const OrtCustomOp*) { return Operator::Place::PROVIDER; };
    GetInputTypeCount = [](const OrtCustomOp*) { return Operator::INPUTS.size(); };
    GetInputType = [](const OrtCustomOp*, size_t index) { return Operator::INPUTS[index]; };
    GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
    GetInputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
    GetOutputTypeCount = [](const OrtCustomOp*) { return Operator::OUTPUTS.size(); };
    GetOutputType = [](const OrtCustomOp*, size_t index) { return Operator::OUTPUTS[index]; };
    GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
    GetVariadicInputMinArity = [](const OrtCustomOp*) { return 0; };
    GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 0; };
    GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 0; };
    GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 0; };
    GetStartVersion = [](const OrtCustomOp*) { return 1; };
    GetEndVersion = [](const OrtCustomOp*) { return 1; };
    CreateKernelV2 = [](const OrtCustomOp*, const OrtApi*, const OrtKernelInfo* info, void** kernel) {
      return guarded([&] { *kernel = new Operator(info); });
    };
    KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
      return guarded([&] { static_cast<const Operator*>(kernel)->compute(context); });
    };
    KernelDestroy = [](void* kernel) { delete static_cast<Operator*>(kernel); };
    InferOutputShapeFn = [](const OrtCustomOp*, OrtShapeInferContext* context) {
      // The output is like the first input.
      return guarded([&] {
        OrtTensorTypeAndShapeInfo* info = nullptr;
        check(api->ShapeInferContext_GetInputTypeShape(context, 0, &info));
        check(api->ShapeInferContext_SetOutputTypeShape(context, 0, info));
      });
    };
  }
};

template <typename Operator>
void add(OrtCustomOpDomain* domain) {
  static const Registration<Operator> registration;
  check(api->CustomOpDomain_Add(domain, &registration));
}

template <typename Where>
void add_all_types(OrtCustomOpDomain* domain) {
  add<SelfGradientBlock<float, Where>>(domain);
  add<SelfGradientBlock<Half, Where>>(domain);
  add<SelfGradientBlock<BFloat16, Where>>(domain);
}

}  // namespace

// ONNX Runtime calls this function when a session registers the library.
extern "C" __attribute__((visibility("default"))) OrtStatus* ORT_API_CALL
RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  api = base->GetApi(INTERFACE_VERSION);
  if (api == nullptr)
    return base->GetApi(1)->CreateStatus(ORT_FAIL, "the fused kernels need ONNX Runtime 1.18 or newer");
  return guarded([&] {
    OrtCustomOpDomain* domain = nullptr;
    check(api->CreateCustomOpDomain(DOMAIN_NAME, &domain));  // lives as long as the process, as sessions use it
    add_all_types<OnCpu>(domain);
#if defined(SGN_CUDA)
    add_all_types<OnCuda>(domain);
#endif
    check(api->AddCustomOpDomain(options, domain));
  });
}

// The extension module: registers the Enclave class and turns EnclaveException into confidential_ml.errors.
#include <pthread.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <atomic>
#include <chrono>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "build_config.h"
#include "host/enclave.h"
#include "host/python_call.h"
#include "host/row_function.h"
#include "host/status_table.h"

namespace py = pybind11;

namespace confidential_ml::host {

void raise(const EnclaveException& error) {
  const py::object type = py::module_::import("confidential_ml.errors").attr(error.exception());
  // The message may hold a path, and a path need not be UTF-8.
  const std::string message = error.what();
  const auto text = py::reinterpret_steal<py::str>(
      PyUnicode_DecodeUTF8(message.data(), static_cast<Py_ssize_t>(message.size()), "surrogateescape"));
  const py::object exception = type(text);
  exception.attr("status") = static_cast<uint32_t>(error.status());
  PyErr_SetObject(type.ptr(), exception.ptr());
}

namespace {

using FloatMatrix = py::array_t<float, py::array::c_style>;

// Models and rows arrive as plain objects and are checked here: pybind11's own error for a wrong type prints
// the arguments, and errors never show contents.

// A view of bytes for a call that runs without the GIL; the caller's reference keeps them alive.
ByteView view(const py::object& bytes) {
  if (!PyBytes_Check(bytes.ptr())) throw py::type_error("expected bytes");
  return {reinterpret_cast<const uint8_t*>(PyBytes_AS_STRING(bytes.ptr())),
          static_cast<size_t>(PyBytes_GET_SIZE(bytes.ptr()))};
}

// The same of bytes or a view of bytes, which is kept from being released or resized meanwhile.
class Buffer {
 public:
  explicit Buffer(const py::object& object) {
    const bool is_bytes = PyBytes_Check(object.ptr()) || PyMemoryView_Check(object.ptr());
    if (!is_bytes) throw py::type_error("expected bytes or a memoryview");
    if (PyObject_GetBuffer(object.ptr(), &buffer_, PyBUF_SIMPLE) != 0) throw py::error_already_set();
  }
  ~Buffer() { PyBuffer_Release(&buffer_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  ByteView view() const {
    return {static_cast<const uint8_t*>(buffer_.buf), static_cast<size_t>(buffer_.len)};
  }

 private:
  Py_buffer buffer_{};
};

FloatMatrix matrix(const py::object& array) {
  if (!py::isinstance<FloatMatrix>(array)) throw py::type_error("expected a C-contiguous float32 array");
  return py::reinterpret_borrow<FloatMatrix>(array);
}

// Waits until every call has the GIL again, so that the interpreter can end. All enclaves must be closed.
void wait_for_calls() {
  while (calls_without_gil.load() != 0) {
    Py_BEGIN_ALLOW_THREADS;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    Py_END_ALLOW_THREADS;
  }
}

py::bytes seal_model(Enclave& enclave, const py::object& model, const py::object& model_id, uint32_t policy,
                     uint64_t model_version, const py::object& owner) {
  const ByteView bytes = view(model);
  const ByteView id_bytes = view(model_id);
  const SealingRequest request{std::string(reinterpret_cast<const char*>(id_bytes.data), id_bytes.size),
                               policy, model_version, view(owner)};
  return py::bytes(call(enclave, [&] { return enclave.seal_model(bytes, request); }));
}

// The handle is also put into `owned`, a list: a signal handler that raises as this returns would drop the
// one returned, and the model would stay loaded with nobody to unload it.
uint64_t load_model(Enclave& enclave, const py::object& sealed, const py::object& owned) {
  const ByteView bytes = view(sealed);
  const uint64_t handle = call(enclave, [&] { return enclave.load_model(bytes); });
  const py::int_ number(handle);
  if (!owned.is_none() && PyList_Append(owned.ptr(), number.ptr()) != 0) {
    enclave.unload_model(handle);
    throw py::error_already_set();
  }
  return handle;
}

void unload_model(Enclave& enclave, uint64_t handle) {
  call(enclave, [&] { return enclave.unload_model(handle), true; });
}

void close_enclave(Enclave& enclave) {
  without_gil([&] { return enclave.close(), true; });
}

py::dict identity(Enclave& enclave) {
  const Identity identity = call(enclave, [&] { return enclave.identity(); });
  py::dict result;
  result["platform"] = identity.platform;
  result["isv_prod_id"] = identity.isv_prod_id;
  result["isv_svn"] = identity.isv_svn;
  result["debug"] = identity.debug;
  result["mrenclave"] = py::bytes(identity.mrenclave);
  result["mrsigner"] = py::bytes(identity.mrsigner);
  return result;
}

py::dict describe_model(Enclave& enclave, uint64_t handle) {
  const ModelDescription d = call(enclave, [&] { return enclave.describe_model(handle); });
  py::dict result;
  result["booster"] = d.booster;
  result["objective"] = d.objective;
  result["n_features"] = d.feature_count;
  result["n_groups"] = d.group_count;
  result["n_columns"] = d.value_columns;
  result["n_rounds"] = d.round_count;
  result["n_trees"] = d.tree_count;
  result["n_nodes"] = d.node_count;
  result["depth"] = d.depth;
  result["leaf_size"] = d.leaf_size;
  result["policy"] = d.policy;
  result["plan_size"] = d.plan_size;
  result["digest"] = py::bytes(d.digest);
  result["owner"] = py::bytes(d.owner);
  result["model_version"] = d.model_version;
  result["model_id"] = d.model_id;
  return result;
}

py::bytes evidence(Enclave& enclave, const py::object& nonce) {
  const ByteView bytes = view(nonce);
  return py::bytes(call(enclave, [&] { return enclave.evidence(bytes); }));
}

void new_epoch(Enclave& enclave) {
  call(enclave, [&] { return enclave.new_epoch(), true; });
}

void end_former_epoch(Enclave& enclave) {
  call(enclave, [&] { return enclave.end_former_epoch(), true; });
}

py::bytes answer_request(Enclave& enclave, const py::object& request) {
  const Buffer bytes(request);
  return py::bytes(call(enclave, [&] { return enclave.answer_request(bytes.view()); }));
}

void check_request(Enclave& enclave, const py::object& header, uint64_t request_size) {
  const ByteView bytes = view(header);
  call(enclave, [&] { return enclave.check_request(bytes, request_size), true; });
}

py::tuple import_model(Enclave& enclave, const py::object& request) {
  const ByteView bytes = view(request);
  const ImportedModel imported = call(enclave, [&] { return enclave.import_model(bytes); });
  return py::make_tuple(py::bytes(imported.sealed), py::bytes(imported.answer));
}

py::array_t<float> predict(Enclave& enclave, uint64_t handle, const py::object& rows_object,
                           size_t group_count, size_t columns, size_t node_count, bool output_margin,
                           uint32_t round_begin, uint32_t round_end, const py::object& base_margin_object,
                           size_t thread_count) {
  const FloatMatrix rows = matrix(rows_object);
  std::optional<FloatMatrix> base_margin;
  if (!base_margin_object.is_none()) base_margin = matrix(base_margin_object);
  if (rows.ndim() != 2) throw py::value_error("rows must be a matrix");
  const auto row_count = static_cast<size_t>(rows.shape(0));
  if (base_margin && static_cast<size_t>(base_margin->size()) != row_count * group_count) {
    throw EnclaveException(Status::kBaseMarginSizeWrong);
  }
  py::array_t<float> predictions({row_count, columns});
  const PredictRequest request{handle,
                               output_margin,
                               round_begin,
                               round_end,
                               row_count,
                               static_cast<size_t>(rows.shape(1)),
                               group_count,
                               columns,
                               node_count,
                               rows.data(),
                               base_margin ? base_margin->data() : nullptr,
                               predictions.mutable_data(),
                               thread_count,
                               nullptr};
  predict_rows(enclave, request);
  return predictions;
}

}  // namespace
}  // namespace confidential_ml::host

PYBIND11_MODULE(_core, module) {
  using namespace confidential_ml::host;  // NOLINT(google-build-using-namespace)
  module.doc() = "The untrusted host side of the enclave; use confidential_ml.Enclave instead.";
  module.attr("platform") = kPlatformName;
  module.attr("image_name") = kImageName;
  module.attr("takes_fuse_key") = kTakesFuseKey;
  module.attr("thread_count") = kThreadCount;
  // NOLINTNEXTLINE(performance-unnecessary-value-param): the signature is pybind11's
  py::register_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const EnclaveException& error) {
      raise(error);
    }
  });
  // Of the threads that were inside calls only this one exists in a forked child.
  pthread_atfork(nullptr, nullptr, [] { calls_without_gil.store(own_calls_without_gil); });
  module.def("wait_for_calls", &wait_for_calls);
  py::class_<Enclave>(module, "Enclave")
      .def(py::init([](const py::object& image_path, const py::object& platform_input) {
             const ByteView path = view(image_path);
             const ByteView input = view(platform_input);
             const std::string image(reinterpret_cast<const char*>(path.data), path.size);
             return without_gil([&] { return std::make_unique<Enclave>(image, input); });
           }),
           py::arg("image"), py::arg("platform_input"))
      .def("identity", &identity)
      .def("seal_model", &seal_model, py::arg("model"), py::arg("model_id"), py::arg("policy"),
           py::arg("model_version"), py::arg("owner"))
      .def("evidence", &evidence, py::arg("nonce"))
      .def("new_epoch", &new_epoch)
      .def("end_former_epoch", &end_former_epoch)
      .def("check_request", &check_request, py::arg("header"), py::arg("request_size"))
      .def("answer_request", &answer_request, py::arg("request"))
      .def("import_model", &import_model, py::arg("request"))
      .def("load_model", &load_model, py::arg("sealed"), py::arg("owned") = py::none())
      .def("unload_model", &unload_model, py::arg("handle"))
      .def("describe_model", &describe_model, py::arg("handle"))
      .def("predict", &predict, py::arg("handle"), py::arg("rows"), py::arg("group_count"),
           py::arg("columns"), py::arg("node_count"), py::arg("output_margin"), py::arg("round_begin"),
           py::arg("round_end"), py::arg("base_margin"), py::arg("thread_count"))
      .def(
          "row_function",
          [](const py::object& self, uint64_t handle, size_t feature_count, size_t group_count,
             size_t columns, size_t node_count) {
            return row_function(
                {self, self.cast<Enclave*>(), handle, feature_count, group_count, columns, node_count});
          },
          py::arg("handle"), py::arg("feature_count"), py::arg("group_count"), py::arg("columns"),
          py::arg("node_count"))
      .def("close", &close_enclave)
      .def_property_readonly("is_open", &Enclave::is_open);
}

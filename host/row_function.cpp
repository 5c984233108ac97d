#include "host/row_function.h"

#include <pybind11/numpy.h>

#include <exception>
#include <limits>
#include <memory>
#include <utility>

#include "host/python_call.h"

namespace py = pybind11;

namespace confidential_ml::host {
namespace {

constexpr char kCapsuleName[] = "confidential_ml.BoundModel";
constexpr int kReady = py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_ | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
constexpr py::ssize_t kMaxRows = std::numeric_limits<int32_t>::max();

bool is_ready(PyObject* object, size_t feature_count) {
  // The class itself: a subclass may mean something else by its values (masked arrays do).
  if (Py_TYPE(object) != py::detail::npy_api::get().PyArray_Type_) return false;
  const auto array = py::reinterpret_borrow<py::array>(object);
  return (array.flags() & kReady) == kReady && array.ndim() == 2 &&
         array.shape(1) == static_cast<py::ssize_t>(feature_count) && array.shape(0) > 0 &&
         array.shape(0) <= kMaxRows && array.dtype().is(py::dtype::of<float>());
}

// Not by py::array_t's constructor, which allocates shape and strides first.
py::array new_values(const BoundModel& model, py::ssize_t row_count) {
  const auto& numpy = py::detail::npy_api::get();
  const Py_intptr_t shape[2] = {row_count, static_cast<Py_intptr_t>(model.columns)};
  PyObject* type = numpy.PyArray_DescrFromType_(py::detail::npy_api::NPY_FLOAT_);
  PyObject* array = numpy.PyArray_NewFromDescr_(numpy.PyArray_Type_, type, model.columns == 1 ? 1 : 2, shape,
                                                nullptr, nullptr, 0, nullptr);
  if (array == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::array>(array);
}

py::array predict(const BoundModel& model, const py::array& rows) {
  const py::ssize_t row_count = rows.shape(0);
  py::array values = new_values(model, row_count);
  const PredictRequest request{model.handle,
                               false,
                               0,
                               0,
                               static_cast<size_t>(row_count),
                               model.feature_count,
                               model.group_count,
                               model.columns,
                               model.node_count,
                               static_cast<const float*>(rows.data()),
                               nullptr,
                               static_cast<float*>(values.mutable_data()),
                               0,
                               nullptr};
  predict_rows(*model.enclave, request);
  return values;
}

// Not through pybind11's dispatcher, which costs as much as all the rest. Nothing may be thrown out of here.
PyObject* call_with_rows(PyObject* self, PyObject* argument) noexcept {
  const auto* model = static_cast<const BoundModel*>(PyCapsule_GetPointer(self, kCapsuleName));
  if (model == nullptr) return nullptr;
  try {
    if (!is_ready(argument, model->feature_count)) Py_RETURN_NOTIMPLEMENTED;
    return predict(*model, py::reinterpret_borrow<py::array>(argument)).release().ptr();
  } catch (const EnclaveException& error) {
    raise(error);
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return nullptr;
}

PyMethodDef definition{"predict_rows", &call_with_rows, METH_O,
                       "predict_rows(rows) -> values, or NotImplemented for rows that need converting"};

}  // namespace

py::object row_function(BoundModel model) {
  auto owned = std::make_unique<BoundModel>(std::move(model));
  const auto capsule =
      py::reinterpret_steal<py::object>(PyCapsule_New(owned.get(), kCapsuleName, [](PyObject* self) {
        delete static_cast<BoundModel*>(PyCapsule_GetPointer(self, kCapsuleName));
      }));
  if (!capsule) throw py::error_already_set();
  static_cast<void>(owned.release());  // the capsule's now
  auto function = py::reinterpret_steal<py::object>(PyCFunction_New(&definition, capsule.ptr()));
  if (!function) throw py::error_already_set();
  return function;
}

}  // namespace confidential_ml::host

//! numpy arrays at the border: C-contiguous in, fresh arrays or the same one out, with types that the generated stub knows.

use crate::error::Error;
use numpy::ndarray::Dimension;
use numpy::{
    Element, Ix1, Ix2, IxDyn, PyArray, PyArrayMethods, PyReadonlyArray, PyReadwriteArray, PyUntypedArrayMethods,
};
use pyo3::exceptions::PyTypeError;
use pyo3::inspect::PyStaticExpr;
use pyo3::prelude::*;
use pyo3::{type_hint_identifier, type_hint_subscript};
use std::convert::Infallible;

/// An element type and its name in numpy.
pub trait Scalar: Element {
    /// `numpy.typing.NDArray[numpy.<name>]`.
    const HINT: PyStaticExpr;
    /// `<name>`.
    const NAME: &'static str;
}

macro_rules! scalar {
    ($($type:ty => $name:literal),*) => {$(
        impl Scalar for $type {
            const HINT: PyStaticExpr =
                type_hint_subscript!(type_hint_identifier!("numpy.typing", "NDArray"), type_hint_identifier!("numpy", $name));
            const NAME: &'static str = $name;
        }
    )*};
}
scalar!(f32 => "float32", u32 => "uint32", u16 => "uint16");

/// A C-contiguous array borrowed from Python for one call.
pub struct In<'py, T: Scalar, D: Dimension>(PyReadonlyArray<'py, T, D>);

/// One dimension.
pub type In1<'py, T> = In<'py, T, Ix1>;
/// Two dimensions.
pub type In2<'py, T> = In<'py, T, Ix2>;

impl<T: Scalar, D: Dimension> In<'_, T, D> {
    /// The elements in C order.
    pub fn slice(&self) -> PyResult<&[T]> {
        self.0.as_slice().map_err(|_| PyTypeError::new_err("the array must be C-contiguous"))
    }

    /// The shape.
    pub fn shape(&self) -> &[usize] {
        self.0.shape()
    }
}

impl<'a, 'py, T: Scalar, D: Dimension + 'static> FromPyObject<'a, 'py> for In<'py, T, D> {
    type Error = PyErr;
    const INPUT_TYPE: PyStaticExpr = T::HINT;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        let array: Result<PyReadonlyArray<'py, T, D>, _> = object.extract();
        let dimensions = D::NDIM.unwrap_or(0);
        let wanted =
            || PyTypeError::new_err(format!("a C-contiguous {} array of {dimensions} dimensions is needed", T::NAME));
        let array = array.map_err(|_| wanted())?;
        if array.is_c_contiguous() { Ok(In(array)) } else { Err(wanted()) }
    }
}

/// A C-contiguous array of two dimensions, borrowed from Python for one call that changes it.
pub struct InOut2<'py, T: Scalar>(PyReadwriteArray<'py, T, Ix2>);

impl<T: Scalar> InOut2<'_, T> {
    /// The elements in C order.
    pub fn slice(&mut self) -> PyResult<&mut [T]> {
        self.0.as_slice_mut().map_err(|_| PyTypeError::new_err("the array must be C-contiguous"))
    }
}

impl<'a, 'py, T: Scalar> FromPyObject<'a, 'py> for InOut2<'py, T> {
    type Error = PyErr;
    const INPUT_TYPE: PyStaticExpr = T::HINT;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        let array: Result<PyReadwriteArray<'py, T, Ix2>, _> = object.extract();
        let wanted = || {
            let name = T::NAME;
            PyTypeError::new_err(format!("a writable C-contiguous {name} array of 2 dimensions is needed"))
        };
        let array = array.map_err(|_| wanted())?;
        if array.is_c_contiguous() { Ok(InOut2(array)) } else { Err(wanted()) }
    }
}

/// A new array handed to Python.
pub struct Out<'py, T: Scalar>(Bound<'py, PyArray<T, IxDyn>>);

impl<'py, T: Scalar> Out<'py, T> {
    /// Takes over `values` as an array of `shape`.
    pub fn new(py: Python<'py>, values: Vec<T>, shape: &[usize]) -> PyResult<Self> {
        let flat = PyArray::from_vec(py, values);
        let shaped = flat.reshape(shape.to_vec());
        shaped.map(Out).map_err(|_| Error::Internal("a result that does not fit its shape").into())
    }
}

impl<'py, T: Scalar> IntoPyObject<'py> for Out<'py, T> {
    type Target = PyArray<T, IxDyn>;
    type Output = Bound<'py, PyArray<T, IxDyn>>;
    type Error = Infallible;
    const OUTPUT_TYPE: PyStaticExpr = T::HINT;

    fn into_pyobject(self, _: Python<'py>) -> Result<Self::Output, Infallible> {
        Ok(self.0)
    }
}

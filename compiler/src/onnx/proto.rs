//! The messages of the ONNX file format that the importer reads.
//!
//! Names and payloads are [`Bytes`]: decoding a mapped file leaves every weight where it is in the
//! map. Fields that have no influence on a model's meaning (documentation, metadata) are absent
//! and skipped by the decoder. Fields that would change the meaning but are not supported
//! (sparse tensors, training) are present, so that they can be refused.

use bytes::Bytes;
use prost::{Message, Oneof};

/// A model file.
#[derive(Clone, PartialEq, Message)]
pub struct ModelProto {
    /// Version of the file format.
    #[prost(int64, optional, tag = "1")]
    pub ir_version: Option<i64>,
    /// The tool that wrote it.
    #[prost(bytes = "bytes", tag = "2")]
    pub producer_name: Bytes,
    /// Main graph.
    #[prost(message, optional, tag = "7")]
    pub graph: Option<GraphProto>,
    /// Operator sets used.
    #[prost(message, repeated, tag = "8")]
    pub opset_import: Vec<OperatorSetIdProto>,
    /// Training graphs, undecoded.
    #[prost(bytes = "bytes", repeated, tag = "20")]
    pub training_info: Vec<Bytes>,
    /// Local functions.
    #[prost(message, repeated, tag = "25")]
    pub functions: Vec<FunctionProto>,
}

/// Version of an operator set.
#[derive(Clone, PartialEq, Message)]
pub struct OperatorSetIdProto {
    /// Domain; empty for the standard one.
    #[prost(bytes = "bytes", tag = "1")]
    pub domain: Bytes,
    /// Version.
    #[prost(int64, tag = "2")]
    pub version: i64,
}

/// A local function: an operator that the model defines itself.
#[derive(Clone, PartialEq, Message)]
pub struct FunctionProto {
    /// Name.
    #[prost(bytes = "bytes", tag = "1")]
    pub name: Bytes,
    /// Names of its inputs.
    #[prost(bytes = "bytes", repeated, tag = "4")]
    pub input: Vec<Bytes>,
    /// Names of its outputs.
    #[prost(bytes = "bytes", repeated, tag = "5")]
    pub output: Vec<Bytes>,
    /// Names of attributes without default.
    #[prost(bytes = "bytes", repeated, tag = "6")]
    pub attribute: Vec<Bytes>,
    /// Nodes.
    #[prost(message, repeated, tag = "7")]
    pub node: Vec<NodeProto>,
    /// Operator sets its nodes use.
    #[prost(message, repeated, tag = "9")]
    pub opset_import: Vec<OperatorSetIdProto>,
    /// Domain.
    #[prost(bytes = "bytes", tag = "10")]
    pub domain: Bytes,
    /// Attributes with their defaults.
    #[prost(message, repeated, tag = "11")]
    pub attribute_proto: Vec<AttributeProto>,
    /// Which of several functions of one name.
    #[prost(bytes = "bytes", tag = "13")]
    pub overload: Bytes,
}

/// A graph.
#[derive(Clone, PartialEq, Message)]
pub struct GraphProto {
    /// Nodes.
    #[prost(message, repeated, tag = "1")]
    pub node: Vec<NodeProto>,
    /// Name.
    #[prost(bytes = "bytes", tag = "2")]
    pub name: Bytes,
    /// Constants, by name.
    #[prost(message, repeated, tag = "5")]
    pub initializer: Vec<TensorProto>,
    /// Inputs; those that also name an initializer are constants.
    #[prost(message, repeated, tag = "11")]
    pub input: Vec<ValueInfoProto>,
    /// Outputs.
    #[prost(message, repeated, tag = "12")]
    pub output: Vec<ValueInfoProto>,
    /// Declared types of inner values.
    #[prost(message, repeated, tag = "13")]
    pub value_info: Vec<ValueInfoProto>,
    /// Sparse constants, undecoded.
    #[prost(bytes = "bytes", repeated, tag = "15")]
    pub sparse_initializer: Vec<Bytes>,
}

/// A node.
#[derive(Clone, PartialEq, Message)]
pub struct NodeProto {
    /// Names of the values read; empty where an optional one is left out.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub input: Vec<Bytes>,
    /// Names of the values made; empty where one is not wanted.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub output: Vec<Bytes>,
    /// Name.
    #[prost(bytes = "bytes", tag = "3")]
    pub name: Bytes,
    /// Operator.
    #[prost(bytes = "bytes", tag = "4")]
    pub op_type: Bytes,
    /// Attributes.
    #[prost(message, repeated, tag = "5")]
    pub attribute: Vec<AttributeProto>,
    /// Operator's domain.
    #[prost(bytes = "bytes", tag = "7")]
    pub domain: Bytes,
    /// Overload of a function.
    #[prost(bytes = "bytes", tag = "8")]
    pub overload: Bytes,
}

/// An attribute. `r#type` says which field holds the value.
#[derive(Clone, PartialEq, Message)]
pub struct AttributeProto {
    /// Name.
    #[prost(bytes = "bytes", tag = "1")]
    pub name: Bytes,
    /// Kind: 1 float, 2 int, 3 string, 4 tensor, 5 graph, 6 floats, 7 ints, 8 strings, 10 graphs.
    #[prost(int32, tag = "20")]
    pub r#type: i32,
    /// Reference to an attribute of the enclosing function.
    #[prost(bytes = "bytes", tag = "21")]
    pub ref_attr_name: Bytes,
    /// Float.
    #[prost(float, optional, tag = "2")]
    pub f: Option<f32>,
    /// Integer.
    #[prost(int64, optional, tag = "3")]
    pub i: Option<i64>,
    /// String.
    #[prost(bytes = "bytes", optional, tag = "4")]
    pub s: Option<Bytes>,
    /// Tensor.
    #[prost(message, optional, tag = "5")]
    pub t: Option<TensorProto>,
    /// Graph.
    #[prost(message, optional, tag = "6")]
    pub g: Option<GraphProto>,
    /// Floats.
    #[prost(float, repeated, tag = "7")]
    pub floats: Vec<f32>,
    /// Integers.
    #[prost(int64, repeated, tag = "8")]
    pub ints: Vec<i64>,
    /// Strings.
    #[prost(bytes = "bytes", repeated, tag = "9")]
    pub strings: Vec<Bytes>,
    /// Graphs.
    #[prost(message, repeated, tag = "11")]
    pub graphs: Vec<GraphProto>,
}

/// A tensor. Its elements are in `raw_data` (little-endian), in the `*_data` field of its element
/// type, or in another file.
#[derive(Clone, PartialEq, Message)]
pub struct TensorProto {
    /// Shape.
    #[prost(int64, repeated, tag = "1")]
    pub dims: Vec<i64>,
    /// Element type.
    #[prost(int32, tag = "2")]
    pub data_type: i32,
    /// Part of a larger tensor, undecoded.
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub segment: Option<Bytes>,
    /// f32.
    #[prost(float, repeated, tag = "4")]
    pub float_data: Vec<f32>,
    /// i32, and one element an entry for all shorter types.
    #[prost(int32, repeated, tag = "5")]
    pub int32_data: Vec<i32>,
    /// i64.
    #[prost(int64, repeated, tag = "7")]
    pub int64_data: Vec<i64>,
    /// Name.
    #[prost(bytes = "bytes", tag = "8")]
    pub name: Bytes,
    /// Little-endian elements.
    #[prost(bytes = "bytes", optional, tag = "9")]
    pub raw_data: Option<Bytes>,
    /// f64.
    #[prost(double, repeated, tag = "10")]
    pub double_data: Vec<f64>,
    /// u32 and u64.
    #[prost(uint64, repeated, tag = "11")]
    pub uint64_data: Vec<u64>,
    /// Where the elements are when `data_location` is 1: location, offset, length.
    #[prost(message, repeated, tag = "13")]
    pub external_data: Vec<StringStringEntryProto>,
    /// 0 here, 1 in another file.
    #[prost(int32, tag = "14")]
    pub data_location: i32,
}

/// A key and its value.
#[derive(Clone, PartialEq, Message)]
pub struct StringStringEntryProto {
    /// Key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// Value.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

/// Declared type of a value.
#[derive(Clone, PartialEq, Message)]
pub struct ValueInfoProto {
    /// Name.
    #[prost(bytes = "bytes", tag = "1")]
    pub name: Bytes,
    /// Type.
    #[prost(message, optional, tag = "2")]
    pub r#type: Option<TypeProto>,
}

/// A type; only tensors are read.
#[derive(Clone, PartialEq, Message)]
pub struct TypeProto {
    /// Tensor type; absent for sequences, maps, optionals and sparse tensors.
    #[prost(message, optional, tag = "1")]
    pub tensor_type: Option<TensorTypeProto>,
}

/// Type of a tensor.
#[derive(Clone, PartialEq, Message)]
pub struct TensorTypeProto {
    /// Element type.
    #[prost(int32, tag = "1")]
    pub elem_type: i32,
    /// Shape; absent when not even the rank is known.
    #[prost(message, optional, tag = "2")]
    pub shape: Option<TensorShapeProto>,
}

/// A shape.
#[derive(Clone, PartialEq, Message)]
pub struct TensorShapeProto {
    /// Dimensions.
    #[prost(message, repeated, tag = "1")]
    pub dim: Vec<DimensionProto>,
}

/// A dimension.
#[derive(Clone, PartialEq, Message)]
pub struct DimensionProto {
    /// Number or name; neither when unknown.
    #[prost(oneof = "DimensionValue", tags = "1, 2")]
    pub value: Option<DimensionValue>,
}

/// A dimension's number or name.
#[derive(Clone, PartialEq, Oneof)]
pub enum DimensionValue {
    /// Number.
    #[prost(int64, tag = "1")]
    Number(i64),
    /// Name.
    #[prost(bytes = "bytes", tag = "2")]
    Name(Bytes),
}

/// Name of an element type number.
pub fn elem_name(data_type: i32) -> &'static str {
    const NAMES: [&str; 25] = [
        "undefined",
        "float32",
        "uint8",
        "int8",
        "uint16",
        "int16",
        "int32",
        "int64",
        "string",
        "bool",
        "float16",
        "float64",
        "uint32",
        "uint64",
        "complex64",
        "complex128",
        "bfloat16",
        "float8e4m3fn",
        "float8e4m3fnuz",
        "float8e5m2",
        "float8e5m2fnuz",
        "uint4",
        "int4",
        "float4e2m1",
        "float8e8m0",
    ];
    usize::try_from(data_type).ok().and_then(|i| NAMES.get(i)).copied().unwrap_or("of an unknown number")
}

/// A name or other text of the file; bytes that are not UTF-8 are replaced.
pub fn text(b: &Bytes) -> String {
    String::from_utf8_lossy(b).into_owned()
}

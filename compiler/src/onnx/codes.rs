//! Diagnostic codes of the ONNX importer.

pfmc_ir::codes! {
    E0102 "the file is no ONNX model"
    "The bytes do not decode as an ONNX ModelProto with a graph: the file is of another format, cut \
     short by an interrupted download, or a text pointer that stands for a large file (Git LFS). \
     Compare its size with the source's."
    E0103 "the opset is not supported"
    "A model says for each operator domain which version of the operators it uses. This one uses a \
     version of the standard domain outside the range pfmc knows, or names none. Convert it with \
     onnx.version_converter, or export it again with a supported opset_version. `pfmc ops` prints \
     the range."
    E0104 "an operator is not supported"
    "The node's operator, in its domain and opset, has no translation. Every such node is listed, \
     with the nearest supported form where there is one. `pfmc ops` prints all supported operators. \
     Export with constant folding on and without vendor operators; \
     onnxslim or onnxruntime's basic optimisation level often removes the rest."
    E0105 "an attribute or its value is not supported"
    "The operator is supported, but not with this attribute or value, or the value has the wrong \
     kind. Attributes are never ignored: one that pfmc does not understand could change what the \
     model computes."
    E0106 "this form of an operator is not supported"
    "The operator is supported, but not the way it is used here: an operand that must be a constant \
     (axes, split sizes, padding) is computed, a rank or length that the translation needs is not \
     known, or a secondary output is used. Simplify the model (constant folding), or declare the \
     input shapes when exporting."
    E0107 "the model's graph is malformed"
    "A node reads a value that nothing produces, two things produce the same name, nodes depend on \
     each other in a circle, or a node has a wrong number of inputs. `onnx.checker.check_model` \
     reports the same; the tool that wrote the file is at fault."
    E0108 "an element type is not supported"
    "Supported are bool, integers of 2 to 64 bits and floats of 4 to 64 bits; an operator may take fewer \
     (`pfmc ops`). float16 and bfloat16 are computed in float32 and rounded after each operation. Strings \
     and complex numbers have no translation."
    E0109 "a tensor's data do not fit its shape"
    "The number of bytes or elements stored for the tensor differs from what its shape and element \
     type say, a dimension is negative, or the size overflows. The file is damaged or was written \
     wrongly; nothing is allocated for such a tensor."
    E0110 "an external data path leaves the model's folder"
    "External data must be in the model's own folder or below. Absolute paths, `..` and symbolic \
     links that lead out are refused, because opening a model must not read other files. Put the \
     data file beside the model, or save the model again with onnx.save_model(..., \
     save_as_external_data=True)."
    E0111 "external data are missing or too short"
    "The model keeps weights in another file, which is not there, is no regular file, or ends before \
     the range the model names. Download or copy it beside the model under the same name."
    E0112 "shapes or element types contradict each other"
    "The operands of a node do not fit each other or the operator. The message has their types; a \
     `?` or a name stands for a length that is not known yet."
    E0113 "a weight is not finite"
    "A trained tensor has a NaN or an infinity: nothing can be built from that. The tensor and the \
     first index are named. Training diverged, a half-precision conversion overflowed, or the file \
     is damaged. An infinity in a tensor that is only added or selected (an attention mask) is a \
     warning."
    E0114 "a feature of the model format is not supported"
    "Sparse tensors, training graphs, sequences, maps and optional values have no translation; nor have \
     local functions that call themselves, use another version of an operator set than the model, or make \
     the model too large. Functions can be inlined with onnx.inliner.inline_local_functions."
    E0115 "a declared shape contradicts the inferred one"
    "The file declares a type for a value that is not the one its operands give. pfmc uses the inferred \
     one. The declaration is often left over from an edit of the model; onnx.shape_inference renews it."
    E0117 "the nodes are not in order"
    "ONNX wants every node after those it reads from. These are sorted while reading; other tools may \
     refuse the file."
}

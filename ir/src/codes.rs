//! Diagnostic codes of the intermediate representation.

crate::codes! {
    E0001 "a file cannot be read or written"
    "The operating system refused: the file does not exist, permissions are missing, or the disk is \
     full. Nothing that was there before has been changed; a partly written result has been removed."
    E0013 "an estimate cannot be made"
    "An assumption given with --assume has a name that no quantity of the estimate has, or constants do not fit the formulas \
     that use them: one is missing, its low, nominal and high value do not ascend, or a division by 0 follows from them. \
     `pfmc estimate ... --explain all` lists every quantity with its value, unit and source."
    E0301 "the graph violates an invariant"
    "A pass or an edited program file left the graph in a state that its verifier refuses: a value \
     without producer, a wrong number of inputs, a cycle, a constant whose shape differs from its \
     declaration, or a type that contradicts inference. For a model straight from ONNX this is a \
     defect of pfmc; for an edited .pfir file, the message names the line to mend."
    E0302 "the tile program violates an invariant"
    "Every element of every fixed matrix and every data byte must lie in exactly one tile, tile \
     names must be unique and well formed, and every use of a matrix must fit its shape. A program \
     file that breaks this was edited or damaged."
    E0303 "the program text cannot be read"
    "The .pfir text has a syntax error at the line and column given."
    E0401 "an accumulator could overflow"
    "With these code bits and this number of rows a 32-bit sum could overflow for some input. Tiles \
     are cut so that this cannot happen; choose fewer bits or smaller tiles in the process file."
    E0801 "an operation failed while executing"
    "The operation named refused its inputs: shapes that do not fit, an index out of range, an \
     element type it does not have, or a result too large. Usually the inputs given to `run` do not \
     fit the model; the message has the shapes."
    E0802 "the inputs do not fit the model"
    "An input is missing, unknown, of the wrong element type, or its shape contradicts the model's \
     (or another input's use of the same symbolic dimension). `pfmc inspect` lists the inputs."
}

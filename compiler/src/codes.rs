//! Diagnostic codes of the compiler itself, and the register of all codes.

pub use pfmc_ir::codes::E0001;
use pfmc_ir::diag::Code;

pfmc_ir::codes! {
    E0002 "the output folder holds something else"
    "pfmc replaces an output folder only when it is empty or holds an earlier result of pfmc (it has \
     a manifest.json that says so). Choose another folder with -o."
    E0003 "unknown target or process"
    "`pfmc targets` lists the targets with their built-in processes; --process also takes a file."
    E0004 "an option does not fit the target"
    "The option has no meaning for this target, or its value is outside what the target can realise; \
     the message says which values work."
    E0005 "the command line cannot be used as given"
    "Something is missing from it or does not go together: a model or a target to compile, options for \
     compiling beside another command, a diagnostic code that does not exist. `pfmc --help` and \
     `pfmc COMMAND --help` list what there is."
    E0012 "samples cannot be read"
    "A file of samples is either numpy's .npz or lines of JSON: each line one object with nested lists by name \
     of input, {\"input_ids\": [[1, 2, 3]]}. A line that is no such object is named. NaN and Infinity, which \
     some writers put out, are no JSON."
    E0201 "a dimension is bound that the model does not have"
    "--bind NAME=N names a dimension that no input leaves open. The message lists those that are open."
    E0202 "the bound sizes contradict each other or the model"
    "A dimension was bound twice with different sizes, bound to less than 1, or bound to a size that \
     the model's constants (a table of positions, a fixed reshape) do not allow."
    E0203 "a shape is still unknown after binding"
    "With the sizes given, shape inference could not derive this value's shape, so that it cannot be \
     bound. Either bind the remaining dimensions, or compile without --bind: tiles do not depend on \
     shapes."
    E0304 "the data beside a program does not fit it"
    "A .pfir file whose constants are in data (`data 0..768`) has their bytes in a file beside it, of the same name with \
     .data in place of .pfir. It is missing or shorter or longer than the entries say. `pfmc opt MODEL -o FILE.pfir` \
     writes both."
    E0310 "a pass that keeps bits changed them"
    "`pfmc check` ran the graph before and after a pass on the same inputs, and an output differs in a bit, which the \
     pass promises that it does not. The note names the first value that differs. This is a defect of pfmc: \
     --reduce makes a small graph of it to report."
    E0311 "a pass rounds more than it may"
    "`pfmc check` computed a region of nodes before and after a pass, and before it in double precision too. The error \
     after the pass is larger than rounding the same sums in another order explains. This is a defect of pfmc: \
     --reduce makes a small graph of it to report."
    E0312 "a pass changed the inputs or outputs"
    "Passes keep the names, element types and order of a graph's inputs and outputs; binding alone makes shapes of \
     inputs more precise. This is a defect of pfmc."
    E0313 "a result lies outside of its computed bound"
    "From a matrix's weights, what the tiles hold of them, and the format of its inputs follows how far a product can \
     be from the exact one. A sample was farther. This is a defect of pfmc: of the bound, of the quantiser, or of \
     the arithmetic."
    E0314 "nothing of a pass could be checked"
    "The graph before the pass refused every input, so that nothing was compared. Give inputs that the model takes \
     with --inputs."
    E0315 "tiles do not hold what was cut"
    "A tile does not hold its part of the matrix it was cut from, or is of another size or kind than the program says; \
     a corrected constant is no number; or the program that was written is not the one that was checked. This is a \
     defect of pfmc."
    E0316 "quantised weights are not the model's"
    "What a tile holds is farther from the model's weights, in the sum of squares, than zeros would be: it is of other \
     weights, or its scales are wrong. This is a defect of pfmc."
    E0403 "the model has nothing to fix"
    "No product or look-up with constant weights was found. `pfmc inspect` shows what the model does."
    E0404 "a plan does not fit the model"
    "The file given with --plan, or the plan of the folder given with --base, is no plan of this format, or \
     plans other matrices than the model has. A plan holds for models of one architecture: the same \
     tensors of the same shapes in the same order. `plan.json` in an output folder is the plan of its model."
    E0405 "calibration failed"
    "The inputs of a matrix are not finite or too large on the samples, or memory for their statistics \
     is short. Other samples help in the first case, fewer weights in the second; without --calib \
     weights are rounded by their values alone."
    E0406 "the budget cannot be met"
    "Even with the schemes that take the fewest bits, or the settings that take the least volume, the weights cost \
     more than --budget allows: the message says what the least is. Or no settings of the process reach --snr-target: the \
     message says what the best reach, and which noise is the largest of it. A process with less of that noise, or a \
     lower target, helps."
    E0407 "the result is not held to its base"
    "The folder given with --base was made of a model of another architecture, for another process, or with \
     options that give another program: the new weights would not fit the chip it describes."
    E0701 "a file is not the one that was written"
    "The file's SHA-256 differs from the manifest's: it was changed or damaged after compiling. What \
     the read-back found in it is reported beside."
    E0702 "the manifest cannot be used"
    "manifest.json is missing, is not JSON of this format's version, its own digest does not match \
     its content, or what it says of tiles, passes or the plan is not what the artefact has and lowering afresh gives."
    E0703 "the reference contents are damaged"
    "contents.pfmt holds what each tile should contain; a chunk of it fails its checksum or is not \
     what the program declares."
    E0704 "the artefact was not made from this model"
    "Compiling the model given with --model afresh, with the options in the manifest, gives another \
     program or other tile contents than those in the folder."
    E0901 "an evaluation cannot be made"
    "What `pfmc eval` was asked does not fit the model: a model without outputs of floats, an output of --logits \
     that it does not have, text for a model whose logits are not [batch, sequence, 256], sources whose outputs \
     have other names or shapes than the first source's, or token ids that the logits have no place for."
    E0902 "a run cannot be made"
    "What `pfmc run` was asked does not fit the model: a pair of --state that it does not have, a streamed \
     input that is missing or has another number of steps, token ids that are not [batch, sequence], or \
     no output of logits [batch, sequence, vocabulary]. `pfmc inspect` lists inputs and outputs."
    E0903 "samples do not fit"
    "Samples for evaluation or calibration must be what the model can run on and numbers that mean something: \
     every input under its name, of its element type and rank (or all with one more axis in front that counts \
     samples), at least one sample, no empty input, no NaN and no infinity. `pfmc inspect` lists the inputs; \
     numpy.savez(path, input_ids=array) writes an .npz file."
    E0904 "nothing can be compared"
    "Two stages of a model are compared value by value where both have a value of the same name, and output by output. \
     These have no name in common, or one of them refuses the inputs."
}

/// Every code of every stage, in order.
pub fn all() -> Vec<&'static Code> {
    let mut codes: Vec<&Code> =
        [CODES, pfmc_ir::codes::CODES, crate::onnx::codes::CODES, crate::npz::CODES].concat();
    codes.extend(crate::targets::BACKENDS.iter().flat_map(|b| b.codes().iter().copied()));
    codes.sort_by_key(|c| c.id);
    codes
}

/// Whether a code means wrong usage or input/output (exit status 2) rather than a rejected model or
/// artefact (exit status 1).
pub fn is_usage(code: &Code) -> bool {
    code.id < "E0100"
}

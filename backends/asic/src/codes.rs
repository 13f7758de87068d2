//! Diagnostic codes of the asic backend.

pfmc_ir::codes! {
    E0501 "the process file cannot be read"
        "A process file is TOML: layers, design rules and the geometry of one ROM cell, with units in \
         the key names. This code reports a syntax error, a key that is missing or unknown, and a \
         value of the wrong kind. Unknown keys are errors so that a misspelt rule is never silently \
         replaced by nothing. Start from the built-in file and change what differs; every problem of \
         the file is reported at once."
    E0502 "the process file contradicts itself"
        "The numbers of the process file are checked against each other before anything is drawn: \
         coordinates must lie on the grid, the cell must obey the file's own rules (widths, spacings, \
         enclosures, areas, density), each programmed cut must land on its rail and on the \
         node's pad, no diffusion may be farther from a tap than allowed, and the die must hold the largest \
         array with the spacing around it. The message names the rule, the number drawn and the number needed. \
         Change the cell or correct the rule."
    E0503 "the scheme cannot be realised in a ROM array"
        "The asic backend stores signed codes of 2 to 8 bits with one 8-bit scale a group of rows. Real \
         values have no representation in a mask ROM, and a scheme whose smallest tile has more word \
         lines or bit lines than the process allows does not fit either. Choose another --bits or \
         group, or another target."
    E0504 "a tile is larger than an array of this process"
        "The word lines (code rows, scale rows and one header) or the bit lines of a tile exceed the \
         largest array of the process file, its sums could overflow 32-bit accumulators, or the tile \
         is empty. Partitioning keeps to the limits a target states, so this points to a program that \
         was partitioned for another process. Compile again with this process file."
    E0505 "a cell name cannot be used"
        "Cell names of a layout are 1 to 32 characters of A-Z, a-z, 0-9 and underscore, and unique. \
         A tile's cells take its name with `_rom` and `_prog`; dies, bases and pattern cells have \
         names of their own (`die<N>`, `base_...`, and for patterns names that begin with a digit). The message names both \
         sides of the collision. Rename the tile."
    E0506 "the content of a tile does not fit the tile"
        "What was handed out for a tile has another shape, bit width or group than the program states, \
         or a code outside of its symmetric range. Nothing was written that could be taken for a \
         layout. This is a fault of the stage that produced the content, not of the model."
    E0508 "the layout exceeds a limit of the file format"
        "GDSII holds 32-bit coordinates, at most 8191 points in a record and at most 32767 copies along \
         an array. A process file with very large numbers can exceed them. The message names the cell \
         and the number."
    E0509 "power does not reach a tile"
        "The cuts between met4 and met5 of a die join every supply pin and every ground pin of its tiles to the ring of that \
         net, and the two rings never meet. The message names the pin and the tile, or the cut that lies on no metal. The \
         layout was changed after it was written: compare its digest with the manifest, and emit again."
    E0510 "the layout file cannot be read"
        "layout.gds is missing, not readable, empty, or not a GDSII library with a database unit of one \
         nanometre. Check the path, and emit again if the file was replaced."
    E0511 "a record of the layout file is malformed"
        "GDSII is a sequence of records with a length, a type and a body. A record with an impossible \
         length, an unknown type, a body of the wrong size or out of order makes the structure that \
         holds it unreadable; the message names the structure and the byte offset. Usually the file was \
         cut short or damaged in transit: compare its digest with the manifest, and emit again."
    E0512 "a cell is missing or defined twice"
        "A structure that the layout needs, such as a tile, its program or a pattern cell it refers to, \
         is not in the file, or two structures share a name, so that readers may take either."
    E0513 "a tile cell is not one base and one program"
        "A tile is exactly one reference to the base array of its shape and one to its `_prog` cell, \
         both at the origin and not rotated, mirrored or magnified. Anything else would shift cuts \
         against the array or draw weight-dependent shapes outside the program."
    E0514 "a tile is not placed exactly once"
        "Every tile is placed once, unrotated, in one of the cells die0, die1, ..., inside the reticle \
         and clear of every other tile."
    E0515 "the base array is not the array of this process"
        "The base cell is flattened and its word lines, diffusion strips, node contacts, pads, rails, \
         ground cuts and labels are compared with the positions the process file gives. A shape that is \
         missing, moved, doubled or extra would change which transistor a cut programs. Around and over the array of a macro every \
         shape and label is compared with what the generator draws for the shape: what differs is damage, or another version's work."
    E0516 "a shape of the program is not a cut on a site"
        "A program cell holds nothing but cuts: squares of the process's cut size on the cut layer, each \
         on one of the two sites of a node. The message has the shape's position and layer. A shape on \
         another layer, of another size, or between sites is an error even where it looks harmless, as \
         the read value would depend on the fab's tolerances."
    E0517 "a node has no cut"
        "Every node of a strip is tied by one cut to its bit line or to ground. Without a cut the node \
         floats and the two bits beside it are undefined."
    E0518 "a node has more than one cut"
        "Two cuts on one node short the bit line to ground (both sites), or repeat the same cut (the same \
         site twice), which the file format allows and a mask shop may not."
    E0519 "a row group is complemented"
        "Complementing all nodes of one column of a row group changes no bit, so the first node follows a \
         fixed rule: of the two ways, the one with fewer nodes on the bit line, and with the first node \
         on ground where they are equal. A column against the rule reads right but was not written by \
         this compiler as it stands: its load on the bit line is larger than promised, and two layouts \
         of equal weights would differ."
    E0520 "the layout holds other weights than it should"
        "Bits decoded from the cuts differ from the reference. The message names the tile, the word lines \
         and bit line, the code with its row and column in the matrix, and the tensor. One moved cut \
         inside a row group flips two bits, the ones above and below its node, and is reported once."
    E0521 "the reference does not fit the tile"
        "The content to compare a tile with has another shape or representation than the program states \
         for the tile, or the tile does not exist in the program."
    E0522 "the cells of a layout are nested too deeply or repeated too often"
        "Reading a program is bounded: references may nest a few levels deep, and a program cannot hold \
         many more shapes than its array has nodes. Beyond that the file is damaged, refers to itself, \
         or was made to exhaust the reader."
    E0523 "a macro of this size cannot be built"
        "A ROM macro has a periphery that fits certain sizes alone: whole rows of the decoder, whole \
         segments between the straps of its word lines, and 8 or 16 bit lines to an output. The message \
         names the number and what is possible. Choose a size near it. Distances of a process file can also \
         leave wires no place, or move shapes out of the boundary: correct what was changed in it. Of a process \
         file without the sections of a periphery (logic, strap, column, wire, device, die) no macro can be \
         built: it describes arrays alone."
    E0525 "the measured timing of macros cannot be used"
        "Liberty files are written from a file of measurements beside the process file. The message names what \
         is missing in it, or the size or corner that was not measured. Measure it with \
         fixtures/referees/asic/measure_macros.py and add it to the file."
    E0530 "layout.oas is damaged or not as this compiler writes it"
        "The OASIS file is read back with records of its own: its checksum, its compressed blocks, its \
         cells and the numbers in them must be whole, and records that this compiler does not write are \
         not read. Usually the file was cut short, damaged or written again by another tool: compare its \
         digest with the manifest, and emit again."
    E0531 "layout.oas and layout.gds are not the same layout"
        "Both files hold one layout. Cells other than programs are compared element by element, programs \
         by the bits that their cuts read as. The message names the cell, or the tile with its word line and \
         bit line. One of the files was changed: compare their digests with the manifest, and emit again."
}

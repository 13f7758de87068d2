//! Diagnostic codes of the glass backend.

pfmc_ir::codes! {
    E0601 "bad process file"
    "The process file of a glass target is not valid TOML, lacks a key, has one that is not known, \
     or holds a value out of range or in contradiction to another. Every problem of the file is \
     reported at once. Keys carry their units; compare with the built-in file that `pfmc targets` names."
    E0602 "tile cannot be placed in glass"
    "The tile's shape or number format has no realisation with this process: only real-valued \
     matrices of at most columns_max * rows_max inputs and outputs can become a hologram, of at most \
     inputs_max and outputs_max a mask. Cut the matrix into smaller tiles or use a process with larger ones."
    E0603 "ports are not off-axis"
    "The grating of every weight must be far from spatial frequency zero, and no grating may be the \
     mirror image of another, or one voxel pattern would have to serve two weights. Some grating \
     vector of this geometry leaves the band between zero and half the sampling frequency. Choose a \
     larger theta0_deg, narrower columns (width_per_column_um) or smaller voxels."
    E0604 "rows of ports are Bragg-degenerate"
    "Two pairs of an input row and an output row have the same difference, so the gratings of \
     different weights share their transverse frequency and differ in depth frequency by almost \
     nothing. Output rows must be spaced by the number of input rows."
    E0605 "tile is ill-conditioned"
    "The conditioning number kappa = 2 L sin(theta0) / W_x is below kappa_min, or the depth \
     frequencies of one transverse frequency span more than the layers can tell apart. At kappa 1 \
     the weights of a tile cannot be set independently. Make the tile longer \
     (length_per_column_um), the angle larger (theta0_deg) or the layers thinner (voxel z_um)."
    E0606 "port does not propagate"
    "A port's transverse wave number is larger than the wave number in the glass: no plane wave has \
     that direction. Use a smaller theta0_deg or wider columns."
    E0607 "tile does not fit the plate"
    "A tile with its margins is larger than the usable part of a plate, or its layers reach deeper \
     than the plate is thick. Reduce columns_max or rows_max, or use a larger plate."
    E0608 "tile misses the required signal-to-noise ratio"
    "After rounding to the process's levels and improving them by flips, the transfer matrix of the \
     tile is further from its weights than snr_min_db allows. Use more levels, more flip_steps, or \
     more voxels a weight (longer or wider tiles)."
    E0609 "weights are not finite"
    "A tile's content holds a NaN or an infinity, or has another shape or number format than the \
     program says. Weights in glass are finite real numbers."
    E0611 "not a glass schedule"
    "The file does not begin with the magic bytes of a glass schedule, or has a version this \
     program does not know."
    E0612 "schedule is truncated or its index is damaged"
    "The trailer or the index at the end of the schedule is missing, points outside the file or has \
     the wrong checksum. The file was cut short or changed; emit it again."
    E0613 "damaged record"
    "The header, a zone record or a tile record of the schedule has the wrong checksum, cannot be \
     decoded or holds values out of range."
    E0614 "damaged layer"
    "The voxel levels of one layer of a tile have the wrong checksum, cannot be unpacked or belong \
     to another tile or layer. The message names tile, layer and, where the checksums of the lines \
     tell, the line."
    E0615 "schedule does not belong to this program"
    "The schedule's process, its tiles or their shapes differ from those of the program it is \
     compared with."
    E0616 "written levels differ from those recorded"
    "The digest of a tile's voxel levels is not the one recorded when the tile was designed: a \
     level, a line or the order of layers was changed after the fact, with valid checksums."
    E0617 "written tile does not compute its weights"
    "The transfer matrix recomputed from the written levels is further from the program's weights \
     than the signal-to-noise ratio recorded in the schedule, by more than 0.1 dB. Levels, geometry, \
     wavelength, level table or gain were changed, or the weights are those of another model."
    E0618 "reference weights are not those the schedule was made for"
    "The digest of the weights a tile is compared with is not the one recorded in the schedule."
    E0619 "data tiles are not held in glass"
    "Only linear layers are written in glass. Biases, norms and tables stay with the host program."
    E0620 "records are not in writing order"
    "A schedule is written from its first byte to its last: the header, each zone with its tiles and \
     its layers from the deepest, the index, and nothing between. This file has a record elsewhere, or \
     bytes that belong to none. A writer would expose glass in another order, or something that was \
     not verified."
    E0621 "calibration cannot be used"
    "A table of `[calibration]`, given with --calibration, has an unknown key, lists of different lengths, a value out of \
     range, levels that are not equal steps (the design needs them so), or depths that do not reach all layers. The \
     message names the key. The form of the file is in docs/formats.md."
    E0622 "measured transfer matrix cannot be used"
    "A matrix given to `pfmc calibrate` has another shape than its tile's output ports and inputs, belongs to no tile, is \
     not finite, needs gains of ports of 1e30 and more (give it in another unit), is so unlike the tile's that no gains of \
     ports explain it, or was measured with light too far from the process's wavelength or direction. Or calibration.json \
     beside a schedule is damaged or belongs to another."
    E0623 "pixel is not thin"
    "Light spreads by diffraction over the length of a mask's pixel. Where a pixel is narrower than lambda / sqrt(2 n dn) its \
     light leaves through its neighbours' glass, and a weight is no longer one azimuth. Use larger pixels (voxel x_um, y_um), \
     or glass of more birefringence in fewer or thinner layers."
    E0624 "tile is too large to propagate"
    "The process asks for tiles designed against multiple scattering (design.propagation_rounds), for which every input of a \
     tile is propagated through all of it, in each round and when it is read back. Only small tiles can be: lower \
     tile.columns_max and tile.rows_max, or set propagation_rounds to 0 and keep dn_rms small."
}

use super::*;
use crate::tests::{Model, process, variants};

fn tile(k: u32, n: u32, bits: u8, group: u32, mux: u32) -> TileRtl {
    let model = Model::new().codes(k, n, bits, group, 1);
    TileRtl::new(&process(), &model.program, TileId(0), mux, false).unwrap()
}

#[test]
fn lanes_cover_whole_columns() {
    // Bits, mux; sweeps, outputs of a lane, lanes of 40 columns.
    for (bits, mux, expected) in [
        (4, 16, [4, 1, 10]),
        (4, 8, [2, 1, 20]),
        (2, 16, [8, 1, 5]),
        (8, 16, [2, 1, 20]),
        (3, 16, [16, 3, 3]),
        (6, 16, [8, 3, 5]),
        (7, 8, [8, 7, 5]),
    ] {
        let t = tile(20, 40, bits, 8, mux);
        assert_eq!([t.sweeps(), t.lane_outputs(), t.lanes()], expected, "{bits} {mux}");
        assert_eq!(t.sweeps() * u32::from(bits), t.lane_outputs() * mux);
    }
}

#[test]
fn roms_have_the_pins_of_the_macros_in_the_layout() {
    let sizes = [(20, 40, 4, 16), (480, 256, 4, 16), (30, 9, 3, 8)];
    let all = variants().into_iter().flat_map(|rom| sizes.map(|size| (rom.process().clone(), size)));
    for (p, (k, n, bits, mux)) in all {
        let model = Model::new().codes(k, n, bits, 32, 1);
        let t = TileRtl::new(&p, &model.program, TileId(0), mux, false).unwrap();
        let rom = crate::macros::Macro::new(&p, t.rom()).unwrap();
        let [a, q] = t.rom_pins();
        let logic: Vec<String> = ["CLK".to_owned(), "CE".to_owned()].into_iter().chain(a).chain(q).collect();
        assert_eq!(rom.pins()[..logic.len()], logic, "{k} x {n}");
        // And they are of the shape that the layout's bases have.
        let (_, used) = encode::contents(&p, &model.program, TileId(0)).unwrap();
        assert_eq!(t.rom().array(), crate::base::shape(&p, used));
    }
}

#[test]
fn registers_are_as_wide_as_the_largest_sums() {
    let t = tile(448, 256, 4, 32, 16);
    // 448 * 7 * 127 * 255 = 101,559,360 < 2^27; 32 * 7 * 127 = 28,448 < 2^15.
    assert_eq!((t.sum_bits(), t.group_bits()), (28, 16 + 7));
    // 448 rows and 14 x 2 scale rows, 4 reads each; then 4 cycles and 64 lanes.
    assert_eq!(t.cycles(), 4 * (476 * 4 + 4 + 64));
    assert_eq!(t.rom(), MacroShape { word_lines: 480, bit_lines: 1024, mux: 16 });
}

#[test]
fn text_depends_on_shapes_alone() {
    let model = |seed| {
        let model =
            Model::new().codebook(40, 40, 4, 16, seed).codes(20, 40, 3, 8, seed + 1).data(100, seed + 2);
        program(&process(), &model.program, 16).unwrap()
    };
    assert_eq!(model(1), model(50));
    assert_eq!(model(1).tiles.len(), 2);
}

#[test]
fn a_data_tile_and_a_wrong_mux_are_refused() {
    let model = Model::new().data(64, 1).codes(20, 40, 4, 8, 1);
    assert!(
        TileRtl::new(&process(), &model.program, TileId(0), 16, false)
            .unwrap_err()
            .to_string()
            .contains("E0503")
    );
    assert!(program(&process(), &model.program, 4).unwrap_err().to_string().contains("E0523"));
}

use super::*;
use crate::tests::{Model, process, variants};

fn tile(k: u32, n: u32, bits: u8, group: u32, mux: u32) -> TileRtl {
    let model = Model::new().codes(k, n, bits, group, 1);
    TileRtl::new(&process(), &model.program, TileId(0), mux, MatrixUse::broadcast(n)).unwrap()
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
        let t = TileRtl::new(&p, &model.program, TileId(0), mux, MatrixUse::broadcast(n)).unwrap();
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
        TileRtl::new(&process(), &model.program, TileId(0), 16, MatrixUse::broadcast(64))
            .unwrap_err()
            .to_string()
            .contains("E0503")
    );
    assert!(program(&process(), &model.program, 4).unwrap_err().to_string().contains("E0523"));
}

/// A program of one matrix [18, 40] in tiles of columns 0..22 and 22..40, with these uses.
fn used(uses: &[&str]) -> TileProgram {
    let mut model = Model::new().codes(18, 22, 4, 8, 1).codes(18, 18, 4, 8, 2).program;
    model.matrices.pop();
    model.matrices[0].n = 40;
    for (tile, columns) in model.tiles.iter_mut().zip([0..22, 22..40]) {
        if let TileKind::Matrix { matrix, n, .. } = &mut tile.kind {
            (*matrix, *n) = (pfmc_ir::tile::MatrixId(0), columns);
        }
    }
    let mut text = "pfir 1\n%0 = input \"x\" : f32[1]\n".to_owned();
    for (i, of) in uses.iter().enumerate() {
        text += &format!("%{} = {of}\n", i + 1);
    }
    model.graph = pfmc_ir::text::parse_program(&text).unwrap().graph;
    model
}

#[test]
fn uses_say_which_columns_take_activations_of_their_own() {
    let linear = "fixed_linear(%0) {matrix=0, k=18, n=40} : f32[1]";
    let lookup = "fixed_lookup(%0) {matrix=0, k=18, n=40} : f32[1]";
    let grouped = |groups| format!("fixed_grouped(%0) {{matrix=0, k=18, n=40, groups={groups}}} : f32[1]");
    let of = |uses: &[&str]| MatrixUse::all(&used(uses))[0];
    assert_eq!(of(&[]), MatrixUse::broadcast(40));
    assert_eq!(of(&[linear, lookup]), MatrixUse { lookup: true, group: 40 });
    assert_eq!(of(&[linear, &grouped(8)]), MatrixUse { lookup: false, group: 5 });
    // Groups of 20 and of 8 columns: of 4, the larger ones given the same activations several times.
    assert_eq!(of(&[&grouped(2), &grouped(5)]).group, 4);
    assert_eq!(of(&[&grouped(40)]).group, 1);
}

#[test]
fn lanes_of_one_group_share_what_is_formed_of_an_activation() {
    // Groups of 10 columns, 4 columns a lane; the second tile begins 2 columns into the third group.
    let program = used(&["fixed_grouped(%0) {matrix=0, k=18, n=40, groups=4} : f32[1]"]);
    let all = super::program(&process(), &program, 16).unwrap();
    let [first, second] = [0, 1].map(|i| all.tiles[i].2);
    assert_eq!([first.groups(), second.groups()], [3, 2]);
    assert_eq!([0, 9, 10, 19, 20, 21].map(|c| first.group_of(c)), [0, 0, 1, 1, 2, 2]);
    assert_eq!([0, 7, 8, 17].map(|c| second.group_of(c)), [0, 0, 1, 1]);
    // Columns 0..8 | 8..12 | 12..20 | 20..24, and 0..8 | 8..20, the last two of which are none.
    assert_eq!([first.runs(), second.runs()], [4, 2]);
    // A tile whose columns all take the same is no different from one that knows of no groups.
    let whole = |n, group| {
        let model = Model::new().codes(18, n, 4, 8, 1);
        TileRtl::new(&process(), &model.program, TileId(0), 16, MatrixUse { lookup: false, group }).unwrap()
    };
    assert_eq!(whole(40, 40), whole(40, 100));
    assert_eq!((whole(40, 1).runs(), whole(40, 1).lanes()), (10, 10));
    // Products with all entries of a codebook are formed once a run where that takes fewer multipliers.
    let codebook = |n, group| {
        let model = Model::new().codebook(18, n, 3, 8, 1);
        TileRtl::new(&process(), &model.program, TileId(0), 16, MatrixUse { lookup: false, group }).unwrap()
    };
    assert_eq!([40, 20].map(|group| codebook(320, group).shared()), [false, false]);
    assert_eq!([320, 160].map(|group| codebook(320, group).shared()), [true, true]);
}

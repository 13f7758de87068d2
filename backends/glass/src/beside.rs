//! Read-back of what a plate carries beside tiles: marks, coupons, and the distances between zones.

use pfmc_ir::diag::{Diagnostic, Diagnostics};

use crate::codes::E0613;
use crate::process::Process;
use crate::schedule::{Coupon, FILE, Header, Zone};

/// Distances that two places of marks must differ by to be told apart, nanometres.
const APART_NM: f64 = 10_000.0;

/// Whether some marks lie so that no turned or mirrored picture of them, other than themselves, looks the same: no
/// other order of them has the same distances, and they are not on one line.
pub fn asymmetric(marks: &[[i64; 2]]) -> bool {
    let n = marks.len();
    if !(3..=8).contains(&n) {
        return false;
    }
    let distance = |a: usize, b: usize| {
        let d = [0, 1].map(|i| marks[a][i] as f64 - marks[b][i] as f64);
        d[0].hypot(d[1])
    };
    let line = (2..n).all(|c| {
        let v = |p: usize| [0, 1].map(|i| marks[p][i] as f64 - marks[0][i] as f64);
        let (u, w) = (v(1), v(c));
        (u[0] * w[1] - u[1] * w[0]).abs() < APART_NM * u[0].hypot(u[1])
    });
    if line {
        return false;
    }
    // Orders are extended mark by mark while distances agree.
    fn same(order: &mut Vec<usize>, n: usize, distance: &dyn Fn(usize, usize) -> f64) -> usize {
        let at = order.len();
        if at == n {
            return 1;
        }
        let mut found = 0;
        for next in 0..n {
            let fits = !order.contains(&next)
                && order
                    .iter()
                    .enumerate()
                    .all(|(i, &p)| (distance(i, at) - distance(p, next)).abs() < APART_NM);
            if fits {
                order.push(next);
                found += same(order, n, distance);
                order.pop();
            }
        }
        found
    }
    same(&mut Vec::new(), n, &distance) == 1
}

/// x0, y0, x1, y1 of what is written.
type Rect = [i64; 4];

/// Whether two rectangles are at least `gap` apart along x or y.
fn apart(a: Rect, b: Rect, gap: i64) -> bool {
    (0..2).any(|s| a[s + 2].saturating_add(gap) <= b[s] || b[s + 2].saturating_add(gap) <= a[s])
}

/// Checks marks, coupons and moats of all plates.
pub fn check(h: &Header, zones: &[&Zone], coupons: &[Coupon], process: &Process) -> Diagnostics {
    let mut d = Diagnostics::new();
    let mut bad = |what: String| d.push(Diagnostic::error(&E0613, format!("{FILE}: {what}")));
    let nm = |um: f64| (um * 1e3).round() as i64;
    let plate = process.plate_mm.map(|mm| nm(mm * 1e3));
    let moat = nm(process.zone_moat_um);
    let inside = |r: Rect| r[0] >= 0 && r[1] >= 0 && r[2] <= plate[0] && r[3] <= plate[1];
    let half = i64::from(h.mark_nm) / 2;
    let mut written: Vec<(u32, String, Rect)> = Vec::new();
    let mut marks: Vec<(u32, u32, Rect)> = Vec::new();
    for zone in zones {
        let &[x0, y0, x1, y1] = zone.rect_nm.as_slice() else {
            bad(format!("zone {} has no rectangle", zone.zone));
            continue;
        };
        written.push((zone.plate, format!("zone {}", zone.zone), [x0, y0, x1, y1]));
        let places: Vec<[i64; 2]> = zone.marks_nm.chunks_exact(2).map(|c| [c[0], c[1]]).collect();
        if zone.marks_nm.len() % 2 != 0 || !asymmetric(&places) {
            bad(format!("marks of zone {} look the same turned or mirrored", zone.zone));
        }
        for [x, y] in places {
            let rect = [
                x.saturating_sub(half),
                y.saturating_sub(half),
                x.saturating_add(half),
                y.saturating_add(half),
            ];
            if !inside(rect) {
                bad(format!("a mark of zone {} is not on the plate", zone.zone));
            }
            marks.push((zone.plate, zone.zone, rect));
        }
    }
    let levels = usize::from(process.fill_level()) + 1;
    let mut plates: Vec<u32> = zones.iter().map(|z| z.plate).collect();
    plates.dedup();
    if !coupons.iter().map(|c| c.plate).eq(plates.iter().copied()) {
        bad("plates have not one coupon each".into());
    }
    for c in coupons {
        let places: Vec<&[i64]> = c.corners_nm.chunks_exact(2).collect();
        let bottom = i64::from(c.layers).saturating_mul(nm(process.voxel_um[2]));
        let &[w, l] = c.size_nm.as_slice() else {
            bad(format!("patches of plate {} have no size", c.plate));
            continue;
        };
        let deep = c.depth_nm < 0 || c.layers == 0 || c.depth_nm.saturating_add(bottom) > plate[2];
        if places.len() != levels || c.corners_nm.len() % 2 != 0 || w <= 0 || l <= 0 || deep {
            bad(format!("the coupon of plate {} has not a patch for each of {levels} levels", c.plate));
            continue;
        }
        let rects: Vec<Rect> =
            places.iter().map(|p| [p[0], p[1], p[0].saturating_add(w), p[1].saturating_add(l)]).collect();
        for (i, a) in rects.iter().enumerate() {
            if !inside(*a) || rects[..i].iter().any(|b| !apart(*a, *b, 0)) {
                bad(format!("patches of plate {} overlap or leave it", c.plate));
                break;
            }
        }
        let all = rects.iter().fold([i64::MAX, i64::MAX, i64::MIN, i64::MIN], |a, r| {
            [a[0].min(r[0]), a[1].min(r[1]), a[2].max(r[2]), a[3].max(r[3])]
        });
        written.push((c.plate, format!("the coupon of plate {}", c.plate), all));
    }
    for (i, (plate, name, rect)) in written.iter().enumerate() {
        if let Some(other) = written[..i].iter().find(|o| o.0 == *plate && !apart(*rect, o.2, moat)) {
            bad(format!("{} and {name} are closer than the moat", other.1));
        }
        if let Some(mark) = marks.iter().find(|m| m.0 == *plate && !apart(*rect, m.2, 1)) {
            bad(format!("a mark of zone {} lies in {name}", mark.1));
        }
    }
    d
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::marks::places;

    #[test]
    fn marks_tell_mirrored_and_turned_plates_and_corners_do_not() {
        for rect in [[0, 0, 5_000_000, 5_000_000], [0, 0, 9_000_000, 2_000_000], [0, 0, 300_000, 1_000_000]] {
            let marks = places(rect, 100_000);
            assert!(asymmetric(&marks), "{rect:?}");
            let corners = [marks[0], marks[1], marks[2], [marks[1][0], marks[2][1]]];
            assert!(!asymmetric(&corners), "{rect:?}");
        }
        // A triangle of equal arms is its own mirror image, marks of one line are too.
        assert!(!asymmetric(&[[0, 0], [1_000_000, 0], [0, 1_000_000]]));
        assert!(asymmetric(&[[0, 0], [2_000_000, 0], [0, 1_000_000]]));
        assert!(!asymmetric(&[[0, 0], [100_000, 0], [500_000, 0]]));
        assert!(!asymmetric(&[]));
    }
}

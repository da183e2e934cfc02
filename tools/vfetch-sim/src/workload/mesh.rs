// SPDX-License-Identifier: GPL-2.0 OR MIT

//! An unstructured mesh of hexahedra, the shape of LULESH: elements gather from their nodes and scatter to them.

use super::{bytes, param, rng, Kind, Values, MIB, SEED};
use crate::record::{Array, Recorder};
use rand::Rng;

pub(super) const KIND: Kind = Kind {
    name: "mesh",
    about: "unstructured hexahedra: gather coordinates, scatter forces, move nodes (like LULESH)",
    params: &[
        MIB,
        SEED,
        param("steps", 2, 1, 1000, "time steps"),
        param(
            "shuffle",
            2,
            0,
            100,
            "nodes that are numbered at random, in per cent",
        ),
        param(
            "elements",
            512,
            1,
            1 << 20,
            "elements or nodes that are one item",
        ),
    ],
    file: None,
    run,
};

fn run(v: &Values<'_>, r: &mut Recorder) -> anyhow::Result<()> {
    // An element has 8 numbers of nodes, energy and volume; there are about as many nodes, of 6 values each.
    let n = ((bytes(v.get("mib")) as f64 / 96.0).cbrt() as usize).max(2);
    let mesh = Mesh::cube(n, v.get("shuffle"), v.get("seed"));
    let mut state = State::new(r, &mesh);
    for _ in 0..v.size("steps") {
        state.step(r, v.size("elements"));
    }
    Ok(())
}

/// Elements and the numbers of their nodes, and where the nodes are.
struct Mesh {
    corners: Vec<[u32; 8]>,
    position: [Vec<f64>; 3],
}

impl Mesh {
    /// n³ elements of a cube, `shuffle` per cent of the nodes swapped with others.
    fn cube(n: usize, shuffle: u64, seed: u64) -> Self {
        let mut rng = rng(seed);
        let side = n + 1;
        let nodes = side * side * side;
        let mut number: Vec<u32> = (0..nodes as u32).collect();
        for i in 0..nodes {
            if rng.random_range(0..100) < shuffle {
                number.swap(i, rng.random_range(0..nodes));
            }
        }
        let node = |x: usize, y: usize, z: usize| number[(z * side + y) * side + x];
        let mut corners = Vec::with_capacity(n * n * n);
        let mut position = [(); 3].map(|()| vec![0.0; nodes]);
        for z in 0..side {
            for y in 0..side {
                for x in 0..side {
                    for (axis, at) in position.iter_mut().zip([x, y, z]) {
                        axis[node(x, y, z) as usize] = at as f64 + rng.random_range(-0.1..0.1);
                    }
                    if x < n && y < n && z < n {
                        // Counter-clockwise below, then above.
                        corners.push([
                            node(x, y, z),
                            node(x + 1, y, z),
                            node(x + 1, y + 1, z),
                            node(x, y + 1, z),
                            node(x, y, z + 1),
                            node(x + 1, y, z + 1),
                            node(x + 1, y + 1, z + 1),
                            node(x, y + 1, z + 1),
                        ]);
                    }
                }
            }
        }
        Self { corners, position }
    }
}

/// The tetrahedra of a hexahedron: corners of 6 of equal share.
const TETRAHEDRA: [[usize; 4]; 6] = [
    [0, 1, 2, 6],
    [0, 2, 3, 6],
    [0, 3, 7, 6],
    [0, 7, 4, 6],
    [0, 4, 5, 6],
    [0, 5, 1, 6],
];

/// The volume of a hexahedron with these corners.
fn volume(p: &[[f64; 3]; 8]) -> f64 {
    let edge = |a: usize, b: usize| [0, 1, 2].map(|i| p[b][i] - p[a][i]);
    TETRAHEDRA
        .iter()
        .map(|[a, b, c, d]| {
            let ([ax, ay, az], [bx, by, bz], [cx, cy, cz]) =
                (edge(*a, *b), edge(*a, *c), edge(*a, *d));
            (ax * (by * cz - bz * cy) - ay * (bx * cz - bz * cx) + az * (bx * cy - by * cx)) / 6.0
        })
        .sum()
}

/// All that is in the space.
struct State {
    corners: Array<[u32; 8]>,
    position: [Array<f64>; 3],
    force: [Array<f64>; 3],
    energy: Array<f64>,
    volume: Array<f64>,
}

impl State {
    fn new(r: &mut Recorder, mesh: &Mesh) -> Self {
        let elements = mesh.corners.len();
        let nodes = mesh.position[0].len();
        Self {
            corners: r.array(mesh.corners.clone()),
            position: mesh.position.clone().map(|axis| r.array(axis)),
            force: [(); 3].map(|()| r.array(vec![0.0; nodes])),
            energy: r.array(vec![1.0; elements]),
            volume: r.array(vec![1.0; elements]),
        }
    }

    /// Elements push their nodes apart; nodes move.
    fn step(&mut self, r: &mut Recorder, per_item: usize) {
        r.barrier();
        for element in 0..self.corners.len() {
            if element % per_item == 0 {
                r.item();
            }
            let corners = self.corners.get(r, element);
            let mut p = [[0.0; 3]; 8];
            for (p, node) in p.iter_mut().zip(corners) {
                for (p, axis) in p.iter_mut().zip(&self.position) {
                    *p = axis.get(r, node as usize);
                }
            }
            let new = volume(&p);
            let old = self.volume.get(r, element);
            let energy = self.energy.get(r, element) - (new - old);
            self.energy.set(r, element, energy);
            self.volume.set(r, element, new);
            let pressure = energy * 0.01;
            for (p, node) in p.iter().zip(corners) {
                for (axis, force) in self.force.iter_mut().enumerate() {
                    let center = (p[axis] - 0.5 * (p[axis].floor() + p[axis].ceil())) * pressure;
                    let sum = force.get(r, node as usize) + center;
                    force.set(r, node as usize, sum);
                }
            }
        }
        r.barrier();
        for node in 0..self.force[0].len() {
            if node % per_item == 0 {
                r.item();
            }
            for (axis, force) in self.position.iter_mut().zip(&mut self.force) {
                let moved = axis.get(r, node) + 0.001 * force.get(r, node);
                axis.set(r, node, moved);
                force.set(r, node, 0.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_fill_the_cube_and_the_numbering_changes_nothing() {
        let unit = [
            [0.0, 0.0, 0.0],
            [1.0, 0.0, 0.0],
            [1.0, 1.0, 0.0],
            [0.0, 1.0, 0.0],
            [0.0, 0.0, 2.0],
            [1.0, 0.0, 2.0],
            [1.0, 1.0, 2.0],
            [0.0, 1.0, 2.0],
        ];
        assert!((volume(&unit) - 2.0).abs() < 1e-12);

        let result = |shuffle| {
            // The same seed, but other draws: positions differ by at most a tenth.
            let mut r = Recorder::new(64);
            let mesh = Mesh::cube(5, shuffle, 3);
            let mut s = State::new(&mut r, &mesh);
            s.step(&mut r, 10);
            s.step(&mut r, 10);
            let total: f64 = s.volume.data().iter().sum();
            (total, r.finish("m".into()).unwrap().accesses())
        };
        let (ordered, count) = result(0);
        let (shuffled, same) = result(50);
        assert!((ordered - 125.0).abs() < 12.0 && (shuffled - 125.0).abs() < 12.0);
        assert_eq!(count, same);
        // Corners, positions, volume and energy read and written, forces; nodes.
        assert_eq!(count, 2 * (125 * (1 + 24 + 4 + 48) + 216 * 12));
    }

    #[test]
    fn a_shuffled_mesh_uses_each_node_as_often() {
        let mesh = Mesh::cube(4, 100, 1);
        let mut uses = vec![0; 125];
        for node in mesh.corners.iter().flatten() {
            uses[*node as usize] += 1;
        }
        assert_eq!(uses.iter().sum::<i32>(), 64 * 8);
        assert_eq!(uses.iter().filter(|u| **u == 8).count(), 27);
        assert_eq!(uses.iter().filter(|u| **u == 1).count(), 8);
    }
}

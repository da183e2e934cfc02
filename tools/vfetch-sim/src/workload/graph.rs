// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Graphs, and what is computed on them: breadth-first search and PageRank.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

use super::{bytes, param, rng, Kind, Param, Values, MIB, SEED};
use crate::record::{Array, Recorder};
use anyhow::{bail, Context};
use rand::{seq::SliceRandom, Rng};

const DEGREE: Param = param("degree", 16, 1, 1024, "edges a vertex, on average");
const FILE: &str = "a graph instead of a generated one: SNAP's edge list, two numbers a line; edges count both ways";

pub(super) const BFS: Kind = Kind {
    name: "bfs",
    about: "breadth-first search, level by level, on a Kronecker graph",
    params: &[
        MIB,
        SEED,
        DEGREE,
        param("sources", 2, 1, 1000, "searches, from random vertices"),
        param(
            "vertices",
            512,
            1,
            1 << 20,
            "vertices of the frontier that are one item",
        ),
    ],
    file: Some(FILE),
    run: run_bfs,
};

pub(super) const PAGERANK: Kind = Kind {
    name: "pagerank",
    about: "PageRank, each vertex pulling from its neighbours, on a Kronecker graph",
    params: &[
        MIB,
        SEED,
        DEGREE,
        param("rounds", 3, 1, 1000, "rounds"),
        param("vertices", 512, 1, 1 << 20, "vertices that are one item"),
    ],
    file: Some(FILE),
    run: run_pagerank,
};

/// The most vertices or edges of a graph from a file.
const MOST: usize = 1 << 28;

/// Neighbours by vertex: those of v are `targets[offsets[v]..offsets[v + 1]]`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Graph {
    pub(super) offsets: Vec<u32>,
    pub(super) targets: Vec<u32>,
}

impl Graph {
    /// Of `vertices` vertices; each edge counts both ways if `both`.
    pub(super) fn new(vertices: usize, edges: &[(u32, u32)], both: bool) -> Self {
        let mut offsets = vec![0_u32; vertices + 1];
        for (from, to) in edges {
            offsets[*from as usize + 1] += 1;
            if both {
                offsets[*to as usize + 1] += 1;
            }
        }
        for v in 0..vertices {
            offsets[v + 1] += offsets[v];
        }
        let mut next = offsets.clone();
        let mut targets = vec![0; offsets[vertices] as usize];
        let mut add = |from: u32, to: u32| {
            let slot = &mut next[from as usize];
            targets[*slot as usize] = to;
            *slot += 1;
        };
        for (from, to) in edges {
            add(*from, *to);
            if both {
                add(*to, *from);
            }
        }
        Self { offsets, targets }
    }

    /// A Kronecker graph as the Graph500 benchmark describes it (A 0.57, B 0.19, C 0.19), its vertices numbered at random:
    /// 2^`scale` vertices, `edges` edges, both ways.
    fn kronecker(scale: u32, edges: usize, seed: u64) -> Self {
        let mut rng = rng(seed);
        let mut number: Vec<u32> = (0..1_u32 << scale).collect();
        number.shuffle(&mut rng);
        let list: Vec<(u32, u32)> = (0..edges)
            .map(|_| {
                let (mut from, mut to) = (0, 0);
                for _ in 0..scale {
                    let draw = rng.random_range(0..100);
                    from = (from << 1) | u32::from(draw >= 76);
                    to = (to << 1) | u32::from((57..76).contains(&draw) || draw >= 95);
                }
                (number[from as usize], number[to as usize])
            })
            .collect();
        Self::new(1 << scale, &list, true)
    }

    /// From a SNAP file: lines of two numbers; those that begin with # are comments. Vertices are numbered anew, in the
    /// order in which they appear.
    fn snap(path: &Path) -> anyhow::Result<Self> {
        let file = File::open(path)
            .with_context(|| format!("cannot open the graph '{}'", path.display()))?;
        parse_snap(BufReader::new(file)).with_context(|| path.display().to_string())
    }

    fn of(v: &Values<'_>) -> anyhow::Result<Self> {
        if let Some(path) = v.file() {
            return Self::snap(path);
        }
        // Each undirected edge is two targets of 4 bytes; a vertex has 12 bytes of its own, about.
        let degree = v.get("degree");
        let vertices = (bytes(v.get("mib")) as f64 / (4 * degree + 12) as f64).max(64.0);
        let scale = vertices.log2().round() as u32;
        let edges = (vertices * degree as f64 / 2.0) as usize;
        Ok(Self::kronecker(scale, edges, v.get("seed")))
    }

    fn vertices(&self) -> usize {
        self.offsets.len() - 1
    }
}

fn parse_snap(input: impl BufRead) -> anyhow::Result<Graph> {
    let mut edges = Vec::new();
    let mut numbers = std::collections::HashMap::new();
    for (index, line) in input.lines().enumerate() {
        let line = line.with_context(|| format!("line {}", index + 1))?;
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut fields = line.split_ascii_whitespace();
        let mut vertex = || -> Option<u32> {
            let number: u64 = fields.next()?.parse().ok()?;
            let next = numbers.len() as u32;
            Some(*numbers.entry(number).or_insert(next))
        };
        let (Some(from), Some(to)) = (vertex(), vertex()) else {
            bail!("line {}: '{line}' is not two vertices; SNAP's edge lists have two whole numbers a line", index + 1);
        };
        edges.push((from, to));
        if edges.len() > MOST || numbers.len() > MOST {
            bail!("line {}: more than {MOST} edges or vertices", index + 1);
        }
    }
    if edges.is_empty() {
        bail!("there is no edge in it");
    }
    Ok(Graph::new(numbers.len(), &edges, true))
}

fn run_bfs(v: &Values<'_>, r: &mut Recorder) -> anyhow::Result<()> {
    let graph = Graph::of(v)?;
    let mut rng = rng(v.get("seed") ^ 1);
    // A search from a vertex without edges is none.
    let candidates: Vec<u32> = (0..graph.vertices() as u32)
        .filter(|v| graph.offsets[*v as usize] < graph.offsets[*v as usize + 1])
        .collect();
    let sources: Vec<u32> = (0..v.size("sources"))
        .map(|_| candidates[rng.random_range(0..candidates.len())])
        .collect();
    let mut search = Search::new(r, graph);
    for source in sources {
        search.run(r, source, v.size("vertices"));
    }
    Ok(())
}

/// A vertex that no search has reached.
const UNREACHED: u32 = u32::MAX;

struct Search {
    offsets: Array<u32>,
    targets: Array<u32>,
    distance: Array<u32>,
    /// This level's vertices, and the next one's.
    queues: [Array<u32>; 2],
}

impl Search {
    fn new(r: &mut Recorder, graph: Graph) -> Self {
        let vertices = graph.vertices();
        Self {
            offsets: r.array(graph.offsets),
            targets: r.array(graph.targets),
            distance: r.array(vec![UNREACHED; vertices]),
            queues: [(); 2].map(|()| r.array(vec![0; vertices])),
        }
    }

    fn run(&mut self, r: &mut Recorder, source: u32, per_item: usize) {
        let vertices = self.distance.len();
        r.barrier();
        for first in (0..vertices).step_by(per_item * 8) {
            r.item();
            let end = (first + per_item * 8).min(vertices);
            self.distance.run_mut(r, first..end).fill(UNREACHED);
        }
        r.barrier();
        self.distance.set(r, source as usize, 0);
        let [mut now, mut next] = [0, 1];
        self.queues[now].set(r, 0, source);
        let mut len = 1;
        let mut level = 0;
        while len > 0 {
            level += 1;
            r.barrier();
            let mut found = 0;
            for i in 0..len {
                if i % per_item == 0 {
                    r.item();
                }
                let v = self.queues[now].get(r, i) as usize;
                let edges = self.offsets.get(r, v)..self.offsets.get(r, v + 1);
                for edge in edges {
                    let to = self.targets.get(r, edge as usize);
                    if self.distance.get(r, to as usize) == UNREACHED {
                        self.distance.set(r, to as usize, level);
                        self.queues[next].set(r, found, to);
                        found += 1;
                    }
                }
            }
            len = found;
            std::mem::swap(&mut now, &mut next);
        }
    }
}

fn run_pagerank(v: &Values<'_>, r: &mut Recorder) -> anyhow::Result<()> {
    let graph = Graph::of(v)?;
    pagerank(r, graph, v.size("rounds"), v.size("vertices"));
    Ok(())
}

const DAMPING: f64 = 0.85;

/// The ranks after `rounds` rounds, from equal ones. Neighbours are those that a vertex pulls from.
fn pagerank(r: &mut Recorder, graph: Graph, rounds: usize, per_item: usize) -> Array<f64> {
    let n = graph.vertices();
    let degree: Vec<u32> = graph.offsets.windows(2).map(|w| w[1] - w[0]).collect();
    let offsets = r.array(graph.offsets);
    let targets = r.array(graph.targets);
    let degree = r.array(degree);
    let mut rank = r.array(vec![1.0 / n as f64; n]);
    // What a vertex gives each of its neighbours.
    let mut share = r.array(vec![0.0_f64; n]);
    for _ in 0..rounds {
        r.barrier();
        for v in 0..n {
            if v % (per_item * 4) == 0 {
                r.item();
            }
            let value = rank.get(r, v) / f64::from(degree.get(r, v).max(1));
            share.set(r, v, value);
        }
        r.barrier();
        for v in 0..n {
            if v % per_item == 0 {
                r.item();
            }
            let edges = offsets.get(r, v)..offsets.get(r, v + 1);
            let mut sum = 0.0;
            for edge in edges {
                let from = targets.get(r, edge as usize);
                sum += share.get(r, from as usize);
            }
            rank.set(r, v, (1.0 - DAMPING) / n as f64 + DAMPING * sum);
        }
    }
    rank
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path_and_star() -> Vec<(u32, u32)> {
        // 0 - 1 - 2 - 3, 3 has leaves 4 to 9, 10 is alone.
        let mut edges = vec![(0, 1), (1, 2), (2, 3)];
        edges.extend((4..10).map(|leaf| (3, leaf)));
        edges
    }

    #[test]
    fn a_search_finds_the_distances() {
        let mut r = Recorder::new(64);
        let mut s = Search::new(&mut r, Graph::new(11, &path_and_star(), true));
        s.run(&mut r, 0, 2);
        assert_eq!(s.distance.data(), [0, 1, 2, 3, 4, 4, 4, 4, 4, 4, UNREACHED]);
        s.run(&mut r, 3, 2);
        assert_eq!(s.distance.data(), [3, 2, 1, 0, 1, 1, 1, 1, 1, 1, UNREACHED]);
    }

    #[test]
    fn distances_on_a_kronecker_graph_are_consistent() {
        let edges = 4000;
        let graph = Graph::kronecker(9, edges, 5);
        assert_eq!(graph.targets.len(), 2 * edges);
        // Few have many neighbours.
        let mut degree: Vec<u32> = graph.offsets.windows(2).map(|w| w[1] - w[0]).collect();
        degree.sort_unstable_by(|a, b| b.cmp(a));
        assert!(degree[..51].iter().sum::<u32>() > 2 * edges as u32 / 4);
        let copy = Graph {
            offsets: graph.offsets.clone(),
            targets: graph.targets.clone(),
        };
        let source = graph.targets[0];
        let mut r = Recorder::new(64);
        let mut s = Search::new(&mut r, graph);
        s.run(&mut r, source, 16);
        let d = s.distance.data();
        assert!(d.iter().filter(|d| **d != UNREACHED).count() > 300);
        for v in 0..copy.vertices() {
            for to in &copy.targets[copy.offsets[v] as usize..copy.offsets[v + 1] as usize] {
                let (a, b) = (d[v], d[*to as usize]);
                assert_eq!(a == UNREACHED, b == UNREACHED);
                assert!(a == UNREACHED || a.abs_diff(b) <= 1);
            }
        }
    }

    #[test]
    fn ranks_are_those_of_the_plain_iteration() {
        let edges = path_and_star();
        let n = 11;
        let mut plain = vec![1.0 / n as f64; n];
        let degree = |v: usize| {
            edges
                .iter()
                .filter(|(a, b)| *a as usize == v || *b as usize == v)
                .count()
        };
        for _ in 0..4 {
            let mut next = vec![(1.0 - DAMPING) / n as f64; n];
            for (a, b) in &edges {
                let (a, b) = (*a as usize, *b as usize);
                next[a] += DAMPING * plain[b] / degree(b) as f64;
                next[b] += DAMPING * plain[a] / degree(a) as f64;
            }
            plain = next;
        }
        let mut r = Recorder::new(64);
        let got = pagerank(&mut r, Graph::new(n, &edges, true), 4, 3);
        for (got, plain) in got.data().iter().zip(&plain) {
            assert!((got - plain).abs() < 1e-12);
        }
    }

    #[test]
    fn edge_lists_are_read_and_errors_name_the_line() {
        let text = "# Directed graph\n# FromNodeId\tToNodeId\n10\t20\n\n20 99\n";
        let g = parse_snap(text.as_bytes()).unwrap();
        assert_eq!(g, Graph::new(3, &[(0, 1), (1, 2)], true));
        let error = |text: &str| parse_snap(text.as_bytes()).unwrap_err().to_string();
        assert!(error("1 2\n3 x\n").contains("line 2: '3 x' is not two vertices"));
        assert!(error("1\n").contains("line 1"));
        assert!(error("-1 2\n").contains("line 1"));
        assert!(error("# nothing\n").contains("no edge"));
    }
}

//! A small directed graph: strongly connected components and shortest circles.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Edges by their two ends, each with the value that explains it.
pub struct Graph<E> {
    edges: BTreeMap<String, BTreeMap<String, E>>,
}

impl<E> Graph<E> {
    pub fn new() -> Graph<E> {
        Graph { edges: BTreeMap::new() }
    }

    /// The value of the edge, which is created by `new` if missing. An edge of a node to itself is one like any other.
    pub fn edge(&mut self, from: &str, to: &str, new: impl FnOnce() -> E) -> &mut E {
        self.edges.entry(to.to_owned()).or_default();
        self.edges.entry(from.to_owned()).or_default().entry(to.to_owned()).or_insert_with(new)
    }

    pub fn get(&self, from: &str, to: &str) -> Option<&E> {
        self.edges.get(from)?.get(to)
    }

    pub fn remove(&mut self, from: &str, to: &str) {
        if let Some(edges) = self.edges.get_mut(from) {
            edges.remove(to);
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, &E)> {
        self.edges
            .iter()
            .flat_map(|(from, edges)| edges.iter().map(move |(to, edge)| (from.as_str(), to.as_str(), edge)))
    }

    /// Strongly connected components of more than one node, largest first.
    pub fn components(&self) -> Vec<BTreeSet<&str>> {
        let reached: BTreeMap<&str, BTreeSet<&str>> =
            self.edges.keys().map(|node| (node.as_str(), self.reached_from(node))).collect();
        let mut components: Vec<BTreeSet<&str>> = Vec::new();
        for (node, others) in &reached {
            let mutual: BTreeSet<&str> =
                others.iter().copied().filter(|other| reached[other].contains(node)).collect();
            if mutual.len() > 1 && !components.contains(&mutual) {
                components.push(mutual);
            }
        }
        components.sort_by_key(|component| std::cmp::Reverse(component.len()));
        components
    }

    /// The shortest circle through nodes of `component`, which starts and ends with the same node.
    pub fn shortest_circle(&self, component: &BTreeSet<&str>) -> Vec<&str> {
        let circles = component.iter().filter_map(|node| self.circle_from(node));
        circles.min_by_key(Vec::len).unwrap_or_default()
    }

    fn targets<'a>(&'a self, from: &str) -> impl Iterator<Item = &'a str> {
        self.edges.get(from).into_iter().flat_map(|edges| edges.keys().map(String::as_str))
    }

    fn reached_from<'a>(&'a self, start: &str) -> BTreeSet<&'a str> {
        let mut reached = BTreeSet::new();
        let mut queue: VecDeque<&str> = self.targets(start).collect();
        while let Some(node) = queue.pop_front() {
            if reached.insert(node) {
                queue.extend(self.targets(node));
            }
        }
        reached
    }

    /// Breadth first: the first way back to `start` is the shortest.
    fn circle_from<'a>(&'a self, start: &str) -> Option<Vec<&'a str>> {
        let start = self.edges.get_key_value(start)?.0.as_str();
        let mut previous: BTreeMap<&str, &str> = BTreeMap::new();
        let mut queue = VecDeque::from([start]);
        while let Some(node) = queue.pop_front() {
            for next in self.targets(node) {
                if next == start {
                    return Some(path_to(start, node, &previous));
                }
                if !previous.contains_key(next) {
                    previous.insert(next, node);
                    queue.push_back(next);
                }
            }
        }
        None
    }
}

/// From `start` to `last` and back to `start`.
fn path_to<'a>(start: &'a str, last: &'a str, previous: &BTreeMap<&'a str, &'a str>) -> Vec<&'a str> {
    let mut path = vec![start];
    let mut node = last;
    while node != start {
        path.push(node);
        node = previous[node];
    }
    path.push(start);
    path.reverse();
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(edges: &str) -> Graph<()> {
        let mut graph = Graph::new();
        for edge in edges.split_whitespace() {
            let (from, to) = edge.split_once('>').unwrap();
            graph.edge(from, to, || ());
        }
        graph
    }

    #[test]
    fn components_and_shortest_circles_are_found() {
        let cases: &[(&str, &[usize], &[&str])] = &[
            ("a>b b>c", &[], &[]),
            ("a>b b>a", &[2], &["a b a"]),
            ("a>b b>c c>d d>a", &[4], &["a b c d a"]),
            ("a>b b>c c>d d>a c>b", &[4], &["b c b"]),
            ("a>b b>a x>y y>z z>x b>x", &[3, 2], &["x y z x", "a b a"]),
        ];
        for (edges, sizes, circles) in cases {
            let graph = graph(edges);
            let components = graph.components();
            assert_eq!(components.iter().map(BTreeSet::len).collect::<Vec<_>>(), *sizes, "{edges}");
            let found: Vec<String> =
                components.iter().map(|component| graph.shortest_circle(component).join(" ")).collect();
            assert_eq!(found, *circles, "{edges}");
        }
    }
}

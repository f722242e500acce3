//! Doubly linked lists over block numbers: every block is in one list or in none.
//!
//! Links are indices into two arrays, a block's own number being its node, so nothing is allocated after the start. List l
//! is a circle through the sentinel `blocks + l`; a node outside all lists is linked to itself.

/// See the module.
#[derive(Clone, Debug)]
pub struct Lists {
    next: Vec<u32>,
    prev: Vec<u32>,
    blocks: u32,
}

impl Lists {
    /// That many empty lists.
    pub fn new(blocks: usize, lists: usize) -> Lists {
        let alone: Vec<u32> = (0..(blocks + lists) as u32).collect();
        Lists { next: alone.clone(), prev: alone, blocks: blocks as u32 }
    }

    /// Whether the block is in a list.
    pub fn contains(&self, block: u32) -> bool {
        self.next[block as usize] != block
    }

    /// Puts a block that is in no list at the end of one.
    pub fn push(&mut self, list: usize, block: u32) {
        let end = self.blocks + list as u32;
        let last = self.prev[end as usize];
        self.link(last, block);
        self.link(block, end);
    }

    /// Takes a block out of its list.
    pub fn remove(&mut self, block: u32) {
        let (before, after) = (self.prev[block as usize], self.next[block as usize]);
        self.link(before, after);
        self.link(block, block);
    }

    /// Moves all of one list, in order, to the end of another.
    pub fn append(&mut self, to: usize, from: usize) {
        let (to, from) = (self.blocks + to as u32, self.blocks + from as u32);
        let (first, last) = (self.next[from as usize], self.prev[from as usize]);
        if first != from && to != from {
            self.link(self.prev[to as usize], first);
            self.link(last, to);
            self.link(from, from);
        }
    }

    /// The blocks of a list from its begin.
    pub fn iter(&self, list: usize) -> impl Iterator<Item = u32> {
        let end = self.blocks + list as u32;
        let after = move |node: u32| Some(self.next[node as usize]).filter(|next| *next != end);
        std::iter::successors(after(end), move |node| after(*node))
    }

    fn link(&mut self, a: u32, b: u32) {
        self.next[a as usize] = b;
        self.prev[b as usize] = a;
    }

    /// Lists there are.
    pub fn count(&self) -> usize {
        self.next.len() - self.blocks as usize
    }

    /// Checks that links go both ways and every linked block is in one list.
    pub fn validate(&self) -> Result<(), String> {
        if let Some(node) = (0..self.next.len()).find(|n| self.prev[self.next[*n] as usize] != *n as u32) {
            return Err(format!("node {node} is not what lies before its next one"));
        }
        let listed: usize = (0..self.count()).map(|l| self.iter(l).count()).sum();
        let linked = (0..self.blocks).filter(|b| self.contains(*b)).count();
        if listed == linked { Ok(()) } else { Err(format!("{linked} blocks are linked, {listed} are in lists")) }
    }
}

//! What one step reads: documents laid end to end, none of which sees another.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// A text to learn from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Where it comes from, for messages: a row's number or name.
    pub name: String,
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// For every token, whether it is to be learnt. The first never is: there
    /// is nothing that it could be told from.
    pub learnt: Vec<bool>,
}

impl Document {
    /// How many of its tokens are learnt.
    pub fn targets(&self) -> usize {
        self.learnt.iter().skip(1).filter(|l| **l).count()
    }
}

/// Documents that go through the network together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Packed {
    /// Their tokens, end to end.
    pub tokens: Vec<u32>,
    /// Lengths of the documents.
    pub lengths: Vec<usize>,
    /// `(place, token)`: the token that is learnt at a place of `tokens`, the
    /// one before it.
    pub targets: Vec<(usize, u32)>,
    /// Indices of the documents.
    pub documents: Vec<usize>,
}

impl Packed {
    /// Documents end to end.
    pub fn new(documents: &[Document], indices: &[usize]) -> Self {
        let mut packed = Self::default();
        for index in indices {
            let document = &documents[*index];
            let start = packed.tokens.len();
            let pairs = document.tokens.iter().zip(&document.learnt).enumerate();
            let learnt = pairs.skip(1).filter(|(_, (_, learnt))| **learnt);
            packed
                .targets
                .extend(learnt.map(|(i, (token, _))| (start + i - 1, *token)));
            packed.tokens.extend(&document.tokens);
            packed.lengths.push(document.tokens.len());
            packed.documents.push(*index);
        }
        packed
    }

    /// Positions, which begin anew with each document.
    pub fn positions(&self) -> impl Iterator<Item = usize> {
        self.lengths.iter().flat_map(|n| 0..*n)
    }
}

/// Groups of documents of at most `length` tokens for one epoch, in an order
/// that depends on the seed and the epoch alone. First fit over the shuffled
/// documents: groups are full, and no kind of document is drawn first.
///
/// A document longer than `length` is a group of its own.
pub fn pack(documents: &[Document], length: usize, seed: u64, epoch: usize) -> Vec<Vec<usize>> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(epoch as u64);
    let mut order: Vec<usize> = (0..documents.len()).collect();
    order.shuffle(&mut random);
    let mut groups: Vec<(usize, Vec<usize>)> = Vec::new();
    // Groups that still have room; few are worth looking at.
    let mut open: Vec<usize> = Vec::new();
    for index in order {
        let size = documents[index].tokens.len();
        let fits = open.iter().position(|g| groups[*g].0 + size <= length);
        match fits {
            Some(place) => {
                let group = &mut groups[open[place]];
                group.0 += size;
                group.1.push(index);
            }
            None => {
                open.push(groups.len());
                groups.push((size, vec![index]));
                if open.len() > OPEN {
                    open.remove(0);
                }
            }
        }
    }
    let mut groups: Vec<Vec<usize>> = groups.into_iter().map(|g| g.1).collect();
    groups.shuffle(&mut random);
    groups
}

/// Groups that are kept open for further documents.
const OPEN: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn documents(sizes: &[usize]) -> Vec<Document> {
        let one = |(n, size): (usize, &usize)| Document {
            name: n.to_string(),
            tokens: (0..*size as u32).collect(),
            learnt: (0..*size).map(|i| i % 2 == 0).collect(),
        };
        sizes.iter().enumerate().map(one).collect()
    }

    #[test]
    fn every_document_is_in_one_group_of_an_epoch() {
        let sizes: Vec<usize> = (0..500).map(|n| 1 + n * 7919 % 120).collect();
        let all = documents(&sizes);
        let groups = pack(&all, 256, 7, 3);
        let mut seen: Vec<usize> = groups.iter().flatten().copied().collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..500).collect::<Vec<_>>());
        let total: usize = sizes.iter().sum();
        for group in &groups {
            assert!(group.iter().map(|i| sizes[*i]).sum::<usize>() <= 256);
        }
        assert!(
            groups.len() <= total / 256 + total / 2560 + 2,
            "{}",
            groups.len()
        );
        assert_eq!(groups, pack(&all, 256, 7, 3));
        assert_ne!(groups, pack(&all, 256, 7, 4));
        assert_ne!(groups, pack(&all, 256, 8, 3));
    }

    #[test]
    fn targets_are_the_next_tokens_of_the_same_document() {
        let all = documents(&[3, 1, 4]);
        let packed = Packed::new(&all, &[0, 1, 2]);
        assert_eq!(packed.tokens, [0, 1, 2, 0, 0, 1, 2, 3]);
        assert_eq!(packed.targets, [(1, 2), (5, 2)]);
        assert_eq!(
            packed.positions().collect::<Vec<_>>(),
            [0, 1, 2, 0, 0, 1, 2, 3]
        );
        assert_eq!(all[0].targets(), 1);
    }
}

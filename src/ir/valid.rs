//! A graph that has been checked, as a type.

use super::Graph;
use std::ops::Deref;

/// A graph that satisfies [`Graph::verify`]. Only the builder makes one; passes
/// change it through [`Valid::edit`].
#[derive(Clone, Debug)]
pub struct Valid(Graph);

impl Valid {
    pub(super) fn new(graph: Graph) -> Valid {
        let valid = Valid(graph);
        valid.check("the builder");
        valid
    }

    /// Lets `change` work on the graph. Debug builds check the result and name
    /// `who` if it is broken.
    pub fn edit<R>(&mut self, who: &str, change: impl FnOnce(&mut Graph) -> R) -> R {
        let result = change(&mut self.0);
        self.check(who);
        result
    }

    pub fn into_graph(self) -> Graph {
        self.0
    }

    fn check(&self, who: &str) {
        if cfg!(debug_assertions)
            && let Err(broken) = self.0.verify()
        {
            panic!("{who} left a broken graph: {broken}");
        }
    }
}

impl Deref for Valid {
    type Target = Graph;
    fn deref(&self) -> &Graph {
        &self.0
    }
}

//! Solver files given where a net is expected: the net that they are for.

use super::bind::{Parsed, read_text};
use super::proto::{NetParameter, NetState, Phase, SolverParameter};
use super::upgrade::upgrade_solver;
use super::{Loaded, SOLVER, State, finish};
use crate::diag::{Diagnostic, FileId, Result, Sources, Span};

/// A solver whose net is in a file of its own.
#[derive(Debug)]
pub struct SolverNet {
    /// As the solver names it: relative to where Caffe is started.
    pub file: String,
    /// Where it does.
    pub at: Span,
    /// The caller's state with the solver's stages, and its level where the caller has
    /// none.
    pub state: State,
    /// Why it is this net where there are several.
    pub notes: Vec<Diagnostic>,
}

/// The net for the phase of `state`, in Caffe's order of fields; one for the other
/// phase is better than none. Source: BVLC/caffe `solver.cpp`, `InitTrainNet` and
/// `InitTestNets`.
pub fn load(sources: &Sources, file: FileId, state: &State) -> Result<Loaded> {
    let parsed: Parsed<SolverParameter> = read_text(sources, file, SOLVER, state.reading)?;
    let (mut message, spans, mut notes) = (parsed.message, parsed.spans, parsed.notes);
    upgrade_solver(&mut message, Some(&spans))?;
    let own = match state.phase {
        Phase::Train => message.train_state.as_ref(),
        Phase::Test => message.test_state.first(),
    };
    let state = joined(state, own);
    let test = ["test_net_param", "test_net"];
    let both = ["net_param", "net"];
    let train = ["train_net_param", "train_net"];
    let order = match state.phase {
        Phase::Test => [test, both, train],
        Phase::Train => [train, both, test],
    };
    let fields = order.as_flattened().iter();
    let Some((field, found)) = fields.copied().find_map(|f| Some((f, spans.child(f, 0)?))) else {
        let error = Diagnostic::invalid("this is a solver that names no net").at(spans.span());
        return Err(error
            .help("its net would be in `net`, `train_net`, `test_net` or one of their `…_param`")
            .into());
    };
    let others = spans.children(field).count() - 1;
    if others > 0 {
        let message = format!("the first `{field}` of {} is taken", others + 1);
        notes.push(Diagnostic::invalid(message).at(found.span()));
    }
    if order[2].contains(&field) {
        let phase = state.phase.as_str_name();
        let message = format!("the solver has no net for phase {phase}: `{field}` is taken");
        notes.push(Diagnostic::invalid(message).at(found.span()));
    }
    let file = match field {
        "test_net" => message.test_net.into_iter().next(),
        "net" => message.net,
        "train_net" => message.train_net,
        _ => None,
    };
    if let Some(file) = file {
        let at = found.span();
        return Ok(Loaded::Solver(SolverNet {
            file,
            at,
            state,
            notes,
        }));
    }
    let net: Option<NetParameter> = match field {
        "test_net_param" => message.test_net_param.into_iter().next(),
        "net_param" => message.net_param,
        _ => message.train_net_param,
    };
    let net = finish((net.unwrap_or_default(), Some(found), notes), &state)?;
    Ok(Loaded::Net(Box::new(net)))
}

fn joined(state: &State, own: Option<&NetState>) -> State {
    let stages = own.map_or(&[][..], |own| &own.stage);
    State {
        level: match state.level {
            0 => own.map_or(0, NetState::level),
            given => given,
        },
        stages: state.stages.iter().chain(stages).cloned().collect(),
        ..state.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frontend;

    fn loaded(text: &str, phase: Phase) -> (Sources, Result<Loaded>) {
        let mut sources = Sources::default();
        let state = State {
            phase,
            ..State::default()
        };
        let loaded = frontend::load("s", text.into(), &mut sources, &state, None);
        (sources, loaded)
    }

    fn file(text: &str, phase: Phase) -> SolverNet {
        match loaded(text, phase).1 {
            Ok(Loaded::Solver(solver)) => solver,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_net_of_the_phase_comes_first() {
        let text = "base_lr: 1 train_net: 'a' test_net: 'b' test_net: 'c' test_iter: 1
            test_state { stage: 's' level: 3 }";
        let test = file(text, Phase::Test);
        assert_eq!((test.file.as_str(), test.notes.len()), ("b", 1));
        assert_eq!((test.state.level, test.state.stages), (3, vec!["s".into()]));
        let train = file(text, Phase::Train);
        assert_eq!((train.file.as_str(), train.state.level), ("a", 0));
        let only = file("base_lr: 1 train_net: 'a'", Phase::Test);
        assert_eq!(only.file, "a");
        assert!(only.notes[0].message.contains("no net for phase TEST"));
    }

    #[test]
    fn nets_inside_are_nets() {
        let text = "base_lr: 1 net: 'x' test_state { stage: 'on' }\ntest_net_param {
            layer { name: 'a' include { stage: 'on' } } layer { name: 'b' include { phase: TRAIN } } }";
        let (sources, net) = loaded(text, Phase::Test);
        let Ok(Loaded::Net(net)) = net else {
            panic!("a net");
        };
        assert_eq!(net.param.layer.len(), 1);
        assert_eq!(sources.position(net.layers[0].span().unwrap()), (3, 13));
    }

    #[test]
    fn a_solver_without_a_net_says_so() {
        let (sources, error) = loaded("base_lr: 1", Phase::Test);
        let message = sources.render_all(&error.unwrap_err());
        assert!(
            message.starts_with("s:1:1: error: this is a solver that names no net"),
            "{message}"
        );
    }
}

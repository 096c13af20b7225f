//! Which layers a net has in a given phase, at a given level, in given stages.
//!
//! Source: BVLC/caffe `net.cpp`, `FilterNet` and `StateMeetsRule`.

use super::proto::{LayerParameter, NetState, NetStateRule};
use super::source::LayerSource;
use crate::diag::{Diagnostic, Errors, Result};

type Sourced = (LayerParameter, LayerSource);

/// The layers that are part of the net in `state`, and the others.
///
/// Errors: `Invalid` for each layer that has both include and exclude rules.
pub fn filter(layers: Vec<Sourced>, state: &NetState) -> Result<(Vec<Sourced>, Vec<Sourced>)> {
    let both = |(layer, source): &Sourced| {
        let message = "a layer has either include rules or exclude rules, not both";
        let both = !layer.include.is_empty() && !layer.exclude.is_empty();
        both.then(|| {
            let error = Diagnostic::invalid(message).at(source.span_of("exclude"));
            error.layer(layer.name())
        })
    };
    Errors::none_or(layers.iter().filter_map(both).collect(), ())?;
    let kept = |(layer, _): &Sourced| included(layer, state);
    Ok(layers.into_iter().partition(kept))
}

/// Whether the rules of a layer let it be part of a net in `state`.
pub fn included(layer: &LayerParameter, state: &NetState) -> bool {
    let met = |rule: &NetStateRule| meets(state, rule);
    match layer.include.as_slice() {
        [] => !layer.exclude.iter().any(met),
        rules => rules.iter().any(met),
    }
}

fn meets(state: &NetState, rule: &NetStateRule) -> bool {
    let has = |stage: &String| state.stage.contains(stage);
    (rule.phase.is_none() || rule.phase() == state.phase())
        && rule.min_level.is_none_or(|min| state.level() >= min)
        && rule.max_level.is_none_or(|max| state.level() <= max)
        && rule.stage.iter().all(has)
        && !rule.not_stage.iter().any(has)
}

#[cfg(test)]
mod tests {
    use super::super::proto::Phase;
    use super::*;

    fn state(phase: Phase, level: i32, stages: &[&str]) -> NetState {
        NetState {
            phase: Some(phase.into()),
            level: Some(level),
            stage: stages.iter().map(|s| s.to_string()).collect(),
        }
    }

    #[test]
    fn rules_hold_all_at_once() {
        let rule = NetStateRule {
            phase: Some(Phase::Test.into()),
            min_level: Some(1),
            stage: vec!["a".into()],
            not_stage: vec!["b".into()],
            ..Default::default()
        };
        assert!(meets(&state(Phase::Test, 1, &["a"]), &rule));
        assert!(!meets(&state(Phase::Train, 1, &["a"]), &rule));
        assert!(!meets(&state(Phase::Test, 0, &["a"]), &rule));
        assert!(!meets(&state(Phase::Test, 1, &[]), &rule));
        assert!(!meets(&state(Phase::Test, 1, &["a", "b"]), &rule));
    }

    #[test]
    fn one_met_rule_suffices() {
        let test = state(Phase::Test, 0, &[]);
        let rule = |phase: Phase| NetStateRule {
            phase: Some(phase.into()),
            ..Default::default()
        };
        let rules = vec![rule(Phase::Train), rule(Phase::Test)];
        let included_by = LayerParameter {
            include: rules.clone(),
            ..Default::default()
        };
        let excluded_by = LayerParameter {
            exclude: rules,
            ..Default::default()
        };
        assert!(included(&included_by, &test));
        assert!(!included(&excluded_by, &test));
        assert!(included(&LayerParameter::default(), &test));
    }

    #[test]
    fn both_kinds_of_rules_are_an_error() {
        let layer = LayerParameter {
            name: Some("l".into()),
            include: vec![NetStateRule::default()],
            exclude: vec![NetStateRule::default()],
            ..Default::default()
        };
        let layers = vec![(layer, LayerSource::default())];
        let errors = filter(layers, &NetState::default()).unwrap_err();
        assert_eq!(errors.0[0].layer.as_deref(), Some("l"));
    }
}

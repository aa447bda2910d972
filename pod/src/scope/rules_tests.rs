//! The algebra as a table, and its laws over random sets: nothing is given that was not there.

use proptest::prelude::*;

use super::*;
use Permission::{Deny, Read, Write};

/// `w /a` is write below `/a`, `r! /a` is read `/a` alone, `- /a` is a deny.
fn rules(text: &str) -> Rules {
    let rule = |line: &str| {
        let (how, target) = line.trim().split_once(' ').unwrap();
        let permission = match how.trim_end_matches('!') {
            "w" => Write,
            "r" => Read,
            _ => Deny,
        };
        ScopeRule { target: target.into(), permission, recursive: !how.ends_with('!') }
    };
    Rules::new(&text.split(',').filter(|line| !line.trim().is_empty()).map(rule).collect::<Vec<_>>()).unwrap()
}

#[test]
fn longest_target_decides_and_what_no_rule_covers_is_denied() {
    let set = rules("w /a, r /a/ro, - /a/ro/secret, r /a/ro/secret/open, w! /one, r /same, - /same");
    for (path, expected) in [
        ("/a", Write),
        ("/a/x/y", Write),
        ("/ab", Deny),
        ("/", Deny),
        ("/a/ro", Read),
        ("/a/ro/x", Read),
        ("/a/rox", Write),
        ("/a/ro/secret", Deny),
        ("/a/ro/secret/x", Deny),
        ("/a/ro/secret/open/x", Read),
        ("/one", Write),
        ("/one/x", Deny),
        ("/same", Deny),
    ] {
        assert_eq!(set.at(&plain(path).unwrap()), expected, "{path}");
    }
}

#[test]
fn what_is_given_lies_within_what_there_is_and_keeps_its_denies() {
    let given = |own: &str, asked: &str| {
        rules(own).delegate(&rules(asked)).map(|given| given.to_string()).map_err(|error| error.to_string())
    };
    for (own, asked, expected) in [
        ("w /a", "w /a/b", "write `/a/b`"),
        ("w /a", "r /a", "read `/a`"),
        ("w /a, - /a/s", "w /a", "write `/a`, deny `/a/s` (alone), deny `/a/s`"),
        ("w /a, r /a/s", "w /a", "write `/a`, read `/a/s` (alone), read `/a/s`"),
        ("w /a, - /a/s, w /a/s/t", "w /a/s/t", "write `/a/s/t`"),
        ("w /a, - /a/s", "w /a/b, - /a/b/c", "write `/a/b`, deny `/a/b/c`"),
        ("w /", "w /x", "write `/x`"),
        ("w /a", "", ""),
    ] {
        assert_eq!(given(own, asked), Ok(expected.to_owned()), "{asked} of {own}");
    }
    for (own, asked, words) in [
        ("w /a", "w /b", &["write `/b`", "no right to it"][..]),
        ("w /a", "w /", &["write `/`"]),
        ("w /a", "w /ab", &["/ab"]),
        ("r /a", "w /a", &["write `/a`", "may only read it"]),
        ("w! /a", "w /a", &["write `/a`", "no right to what is below it"]),
        ("w /a, - /a/s", "r /a/s", &["read `/a/s`", "no right"]),
        ("w /a, - /a/s", "r /a/s/t", &["no right"]),
        ("w /a, r /a/s", "w /a/s/t", &["may only read"]),
        ("", "r /a", &["no right"]),
    ] {
        let error = given(own, asked).unwrap_err();
        assert!(words.iter().all(|word| error.contains(word)), "{asked} of {own}: {error}");
        assert!(error.contains("not the parent's to give") && error.contains("ask for"), "{error}");
    }
}

#[test]
fn overlap_is_a_path_that_both_may_write() {
    for (one, other, expected) in [
        ("w /a", "w /a/b", Some("/a/b")),
        ("w /a", "w /a", Some("/a")),
        ("w /a", "w /b", None),
        ("w /a", "w /ab", None),
        ("w /a", "r /a", None),
        ("w! /a", "w /a/b", None),
        ("w! /a/b", "w /a", Some("/a/b")),
        ("w /a, - /a/b", "w /a/b", None),
        ("w /a, - /a/b", "w /a/b, w /a/c", Some("/a/c")),
        ("w /a, - /a/b, w /a/b/c", "w /a/b", Some("/a/b/c")),
    ] {
        assert_eq!(rules(one).overlap(&rules(other)), expected.map(PathBuf::from), "{one} and {other}");
        assert_eq!(rules(other).overlap(&rules(one)).is_some(), expected.is_some(), "{other} and {one}");
    }
}

#[test]
fn targets_that_cannot_be_compared_are_refused_with_a_remedy() {
    for (target, fault) in [("a/b", "not absolute"), ("", "not absolute"), ("/a/../b", "`..`"), ("/a\0", "zero byte")] {
        let error = plain(target).unwrap_err().to_string();
        assert!(error.contains(fault) && error.contains("write the whole path"), "{error}");
    }
    assert_eq!(plain("/a//b/./c/").unwrap(), PathBuf::from("/a/b/c"));
    let many = vec![ScopeRule::below("/a", Read); SCOPE_RULES_MAX + 1];
    assert!(Rules::new(&many).unwrap_err().to_string().contains("too many"));
}

fn any_path() -> impl Strategy<Value = PathBuf> {
    proptest::collection::vec(prop_oneof!["a", "b", "c"], 0..4)
        .prop_map(|parts| parts.iter().fold(PathBuf::from("/"), |path, part| path.join(part)))
}

fn any_rules() -> impl Strategy<Value = Rules> {
    let rule = (any_path(), prop_oneof![Just(Read), Just(Write), Just(Deny)], proptest::bool::weighted(0.8))
        .prop_map(|(target, permission, recursive)| Rule { target, permission, recursive });
    proptest::collection::vec(rule, 0..6).prop_map(Rules)
}

/// Every path of up to four parts over three names and one that no rule knows.
fn all_paths() -> Vec<PathBuf> {
    let mut all = vec![PathBuf::from("/")];
    let mut last = all.clone();
    for _ in 0..4 {
        last = last.iter().flat_map(|path| ["a", "b", "c", "z"].map(|part| path.join(part))).collect();
        all.extend(last.clone());
    }
    all
}

proptest! {
    #[test]
    fn nobody_is_given_more_than_there_is(own in any_rules(), asked in any_rules()) {
        if let Ok(given) = own.delegate(&asked) {
            for path in all_paths() {
                prop_assert!(given.at(&path) <= own.at(&path), "{} for {given} of {own}", path.display());
                prop_assert!(given.at(&path) <= asked.at(&path), "{} for {given}, asked {asked}", path.display());
            }
        } else {
            // Refused with reason: something that was asked for is not there.
            prop_assert!(all_paths().iter().any(|path| asked.at(path) > own.at(path)), "{asked} of {own}");
        }
    }

    #[test]
    fn rule_that_is_needless_is_left_out_and_nothing_else_changes(own in any_rules()) {
        let kept = own.clone().without_needless();
        for path in all_paths() {
            prop_assert_eq!((kept.at(&path), kept.below(&path)), (own.at(&path), own.below(&path)), "{}", path.display());
        }
        prop_assert_eq!(kept.clone().without_needless(), kept);
    }

    #[test]
    fn overlap_is_found_exactly_where_there_is_one(one in any_rules(), other in any_rules()) {
        let there = all_paths().iter().any(|path| one.at(path) == Write && other.at(path) == Write);
        prop_assert_eq!(one.overlap(&other).is_some(), there);
    }

    #[test]
    fn what_is_given_again_is_given_whole(own in any_rules()) {
        let again = own.delegate(&own).unwrap();
        for path in all_paths() {
            prop_assert_eq!(again.at(&path), own.at(&path));
        }
        prop_assert!(!own.readable().writes());
    }
}

/// Of two for one target the one that is needed hides the other: both go.
#[test]
fn rule_that_became_needless_by_another_ones_going_goes_too() {
    let rule = |target, permission| ScopeRule::below(target, permission);
    let rules = Rules::new(&[rule("/c/a/b", Read), rule("/c/a/b", Write), rule("/", Read)]).unwrap();
    assert_eq!(rules.without_needless(), Rules::new(&[rule("/", Read)]).unwrap());
}

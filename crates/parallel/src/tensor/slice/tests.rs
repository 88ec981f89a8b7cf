use caravan_model::preset;

use super::*;

fn config() -> LlamaConfig {
    LlamaConfig {
        vocab_size: 101,
        d_model: 10,
        n_layers: 2,
        n_heads: 12,
        n_kv_heads: 6,
        head_dim: 4,
        d_ff: 18,
        tie_embeddings: false,
        ..preset("tiny").unwrap()
    }
}

/// Numbers every element and collects what the ranks hold: each element exactly once, replicated ones once per rank.
#[test]
fn the_slices_of_all_ranks_are_the_parameter() {
    let config = config();
    for size in [1, 2, 3, 6] {
        for info in config.parameters() {
            let n: usize = info.shape.iter().product();
            let values: Vec<usize> = (0..n).collect();
            let mut counts = vec![0; n];
            let mut is_replicated = false;
            for rank in 0..size {
                let slice = slice_of(&info.path, &info.shape, &config, rank, size);
                is_replicated = slice.is_replicated();
                let mine = slice.cut(&info.shape, &values);
                assert_eq!(mine.len(), slice.shape(&info.shape).iter().product::<usize>());
                mine.into_iter().for_each(|i| counts[i] += 1);
            }
            let expected = if is_replicated { size } else { 1 };
            assert!(counts.iter().all(|c| *c == expected), "{} over {size}", info.path);
            assert_eq!(is_replicated, info.shape.len() == 1, "{}", info.path);
        }
    }
}

#[test]
fn heads_stay_whole_and_meet_their_rows() {
    let config = config();
    let of = |name: &str, shape: &[usize], rank| {
        slice_of(&format!("blocks.1.{name}.weight"), shape, &config, rank, 3)
    };
    // 12 query heads and 6 key heads of 4: rank 2 has query heads 8..12 and key heads 4..6, which serve them.
    assert_eq!(of("wq", &[10, 48], 2), Slice { dim: Some(1), start: 32, extent: 16 });
    assert_eq!(of("wk", &[10, 24], 2), Slice { dim: Some(1), start: 16, extent: 8 });
    assert_eq!(of("wv", &[10, 24], 2), Slice { dim: Some(1), start: 16, extent: 8 });
    assert_eq!(of("wo", &[48, 10], 2), Slice { dim: Some(0), start: 32, extent: 16 });
    assert_eq!(of("w_up", &[10, 18], 1), Slice { dim: Some(1), start: 6, extent: 6 });
    assert_eq!(of("w_down", &[18, 10], 1), Slice { dim: Some(0), start: 6, extent: 6 });
    let rows = slice_of("embed.weight", &[101, 10], &config, 1, 3);
    assert_eq!(rows, Slice { dim: Some(0), start: 33, extent: 34 });
    let columns = slice_of("head.output.weight", &[10, 101], &config, 1, 3);
    assert_eq!(columns, Slice { dim: Some(1), start: 33, extent: 34 });
}

#[test]
fn runs_are_rows_cut_out_of_a_matrix() {
    let columns = Slice { dim: Some(1), start: 2, extent: 3 };
    assert_eq!(columns.runs(&[2, 7]).collect::<Vec<_>>(), [2..5, 9..12]);
    let rows = Slice { dim: Some(0), start: 1, extent: 2 };
    assert!(rows.runs(&[4, 7]).eq(std::iter::once(7..21)));
    let whole = Slice { dim: None, start: 0, extent: 5 };
    assert!(whole.runs(&[5]).eq(std::iter::once(0..5)));
}

#[test]
#[should_panic(expected = "no rule")]
fn a_new_parameter_needs_a_rule() {
    slice_of("blocks.0.router.weight", &[10, 4], &config(), 0, 2);
}

#[test]
fn every_refusal_says_what_to_change() {
    let config = config();
    for (degree, what, help) in [
        (4, "tensor_parallel = 4 does not divide n_kv_heads = 6", "n_kv_heads to a multiple of 4"),
        (5, "does not divide n_heads = 12", "one of 1, 2, 3, 6, or n_heads"),
        (0, "tensor_parallel = 0", "set tensor_parallel to one of 1, 2, 3, 6"),
    ] {
        let message = check(&config, degree).unwrap_err().to_string();
        let (text, found) = message.split_once("\nhelp: ").unwrap();
        assert!(text.contains(what) && found.contains(help), "{message}");
    }
    let narrow = LlamaConfig { d_ff: 20, ..config.clone() };
    assert!(check(&narrow, 3).unwrap_err().to_string().contains("d_ff = 20"));
    let small = LlamaConfig { vocab_size: 5, ..config.clone() };
    assert!(check(&small, 6).unwrap_err().to_string().contains("5 or less"));
    assert!(check(&config, 6).is_ok() && check(&config, 1).is_ok());

    assert!(check_sequence(24, 3).is_ok());
    let message = check_sequence(25, 3).unwrap_err().to_string();
    assert!(message.contains("24 or 27") && message.contains("sequence_parallel"), "{message}");
    assert!(check_sequence(2, 3).unwrap_err().to_string().contains("to 3,"));
}

//! What of a model is trained, and how fast each part learns.

use caravan_model::Llama;
use caravan_optim::{ParamGroups, matches};

use crate::error::Result;
use crate::settings::{Settings, wrong};

/// Parameter groups with the learning rate falling from the head down: block `i` of `n` learns with `layer_decay^(n - i)`
/// times the learning rate, the embedding with one power more, the head with all of it.
///
/// # Reference
/// Clark et al., "ELECTRA", 2020, appendix A.
pub(crate) fn of(model: &Llama, settings: &Settings) -> ParamGroups {
    let groups = ParamGroups::default();
    if settings.layer_decay == 1.0 {
        return groups;
    }
    let n = model.config().n_layers;
    let scale = |depth: usize| settings.layer_decay.powi(depth as i32);
    let groups = groups.with_lr_scale("embed.*", scale(n + 1));
    (0..n).fold(groups, |groups, i| groups.with_lr_scale(format!("blocks.{i}.*"), scale(n - i)))
}

/// The model with adapters or all weights to train; of what is not an adapter `is_new` is trained all the same.
///
/// # Errors
/// Adapters that cannot be, a pattern that matches nothing, or nothing left to train.
pub(crate) fn prepared(
    mut model: Llama,
    settings: &Settings,
    is_new: &dyn Fn(&str) -> bool,
) -> Result<Llama> {
    let is_lora = settings.method == "lora";
    if is_lora {
        model = model.with_lora(&settings.lora(), settings.seed)?;
    }
    let patterns: Vec<&str> =
        settings.freeze.split(',').map(str::trim).filter(|pattern| !pattern.is_empty()).collect();
    let paths: Vec<String> = model.parameters().into_iter().map(|info| info.path).collect();
    for pattern in &patterns {
        if !paths.iter().any(|path| matches(pattern, path)) {
            let help = "paths are such as blocks.0.wq.weight, embed.weight, head.norm.weight";
            return Err(wrong("freeze", pattern, "matches no parameter", help));
        }
    }
    let is_frozen = |path: &str| patterns.iter().any(|pattern| matches(pattern, path));
    let is_trained =
        |path: &str| (!is_lora || path.contains(".lora.") || is_new(path)) && !is_frozen(path);
    if !paths.iter().any(|path| is_trained(path)) {
        return Err(wrong("freeze", &settings.freeze, "leaves nothing to train", "freeze less"));
    }
    Ok(model.freeze(&is_trained))
}

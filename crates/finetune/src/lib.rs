//! From a pre-trained LLaMA to one that classifies or follows instructions.

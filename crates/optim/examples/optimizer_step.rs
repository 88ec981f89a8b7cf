//! Linear regression with AdamW, a warmup and cosine schedule, and clipping by the global norm.
//!
//! `cargo run --release -p caravan-optim --example optimizer_step`

use burn::tensor::{Device, Tensor};
use caravan_optim::{
    AdamW, AdamWConfig, LrSchedule, ParamGroups, Placement, Schedule, ScheduleConfig, clip_scale,
    sum_in_order, tensor_block_sums,
};

#[allow(clippy::print_stdout, reason = "an example shows what it does")]
fn main() -> anyhow::Result<()> {
    // Gradients come from an autodiff device; parameters are flat and known by their paths.
    let device = Device::flex().autodiff();
    let x = Tensor::<2>::from_floats([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, -1.0]], &device);
    let y = Tensor::<2>::from_floats([[2.5], [-0.5], [1.5], [5.5]], &device); // y = 2 a - b + 0.5
    let mut weight = Tensor::<1>::zeros([2], &device).require_grad();
    let mut bias = Tensor::<1>::zeros([1], &device).require_grad();

    let steps = 400;
    let schedule = LrSchedule::new(ScheduleConfig {
        schedule: Schedule::Cosine,
        peak_lr: 0.1,
        min_lr: 1e-4,
        warmup_steps: 20,
        steps,
        ..ScheduleConfig::default()
    })?;
    // On Flex tensors live in host memory, where the fused update is the fast one.
    let mut adamw = AdamW::new(AdamWConfig::default(), Placement::Host)?;
    let groups = ParamGroups::default();
    let decay = |path, shape: &[usize]| groups.decay(path, shape, 1e-3);

    let mut loss = f32::NAN;
    for step in 0..steps {
        let prediction =
            x.clone().matmul(weight.clone().reshape([2, 1])) + bias.clone().reshape([1, 1]);
        let loss_now = (prediction - y.clone()).square().mean();
        let grads = loss_now.backward();
        loss = loss_now.into_scalar::<f32>();
        let [dw, db] = [&weight, &bias].map(|p| p.grad(&grads).expect("the loss depends on it"));

        // The global norm: block sums of each gradient, parameters in a fixed order.
        let (dw, dw_sums) = tensor_block_sums(dw);
        let (db, db_sums) = tensor_block_sums(db);
        let norm = (sum_in_order(dw_sums) + sum_in_order(db_sums)).sqrt();
        let scale = clip_scale(norm, 1.0);

        let lr = schedule.lr(step);
        weight = adamw.step_scaled("weight", weight, dw, scale, lr, decay("weight", &[2, 1]));
        bias = adamw.step_scaled("bias", bias, db, scale, lr, decay("bias", &[1]));
        if step % 100 == 0 {
            println!("step {step:3}  loss {loss:.6}  norm {norm:.4}  lr {lr:.5}");
        }
    }
    let [w, b] = [weight, bias].map(|t| t.into_data().try_into_vec::<f32>());
    println!("loss {loss:.6}, weight {:?}, bias {:?}", w?, b?);
    anyhow::ensure!(loss < 1e-3, "the loss did not fall: {loss}");
    Ok(())
}

//! Walking a model's parameters: by path, in visit order, flat.

use std::ops::Range;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::Tensor;

use crate::ParamInfo;

/// The dotted path of the parameter being visited.
#[derive(Debug, Default)]
struct Path(Vec<String>);

impl Path {
    fn push(&mut self, name: &str) {
        self.0.push(name.to_owned());
    }

    fn pop(&mut self) {
        self.0.pop();
    }

    fn dotted(&self) -> String {
        self.0.join(".")
    }
}

/// Whether a parameter is frozen: on an autodiff device, and yet no gradient is recorded for it.
fn is_frozen<const D: usize>(value: &Tensor<D>) -> bool {
    value.is_autodiff() && !value.is_require_grad()
}

/// Path and shape of every parameter of a module, in visit order.
pub(crate) fn list(module: &impl Module) -> Vec<ParamInfo> {
    listed(module, false)
}

/// Path and shape of every parameter of a module that is not frozen, in visit order.
pub fn trained(module: &impl Module) -> Vec<ParamInfo> {
    listed(module, true)
}

fn listed(module: &impl Module, only_trained: bool) -> Vec<ParamInfo> {
    struct List {
        path: Path,
        infos: Vec<ParamInfo>,
        only_trained: bool,
    }
    impl ModuleVisitor for List {
        fn enter_module(&mut self, name: &str, _container_type: &str) {
            self.path.push(name);
        }
        fn exit_module(&mut self, _name: &str, _container_type: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let value = param.val();
            if !(self.only_trained && is_frozen(&value)) {
                let shape = value.dims().to_vec();
                self.infos.push(ParamInfo { path: self.path.dotted(), shape });
            }
        }
    }
    let mut list = List { path: Path::default(), infos: Vec::new(), only_trained };
    module.visit(&mut list);
    list.infos
}

/// Calls `f(path, shape, values)` for every parameter of a module, in visit order.
///
/// `values` is flat, row-major and plain: no gradient is recorded. It shares the parameter's memory where the backend can.
pub fn flat(module: &impl Module, f: &mut dyn FnMut(&str, &[usize], Tensor<1>)) {
    visit(module, false, f);
}

/// As [`flat`], without those that are frozen.
pub fn flat_trained(module: &impl Module, f: &mut dyn FnMut(&str, &[usize], Tensor<1>)) {
    visit(module, true, f);
}

fn visit(module: &impl Module, only_trained: bool, f: &mut dyn FnMut(&str, &[usize], Tensor<1>)) {
    struct Flat<'a> {
        only_trained: bool,
        path: Path,
        f: &'a mut dyn FnMut(&str, &[usize], Tensor<1>),
    }
    impl ModuleVisitor for Flat<'_> {
        fn enter_module(&mut self, name: &str, _container_type: &str) {
            self.path.push(name);
        }
        fn exit_module(&mut self, _name: &str, _container_type: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let value = param.val();
            if self.only_trained && is_frozen(&value) {
                return;
            }
            let values = value.inner();
            let dims = values.dims();
            (self.f)(&self.path.dotted(), &dims, values.reshape([dims.iter().product::<usize>()]));
        }
    }
    module.visit(&mut Flat { only_trained, path: Path::default(), f });
}

/// Replaces every parameter of a module by `f(path, shape, values)`, in visit order.
///
/// Values are flat and plain as for [`flat`], and `f` owns them: where nobody else holds the parameter, an operation can
/// reuse its memory. Parameter ids and whether gradients are recorded stay as they were.
///
/// # Panics
/// If `f` returns another number of elements.
pub fn map_flat<M: Module>(
    module: M,
    f: &mut dyn FnMut(&str, &[usize], Tensor<1>) -> Tensor<1>,
) -> M {
    mapped(module, false, f)
}

/// As [`map_flat`]; those that are frozen stay as they are.
///
/// # Panics
/// As [`map_flat`].
pub fn map_trained<M: Module>(
    module: M,
    f: &mut dyn FnMut(&str, &[usize], Tensor<1>) -> Tensor<1>,
) -> M {
    mapped(module, true, f)
}

/// The module whose parameters are frozen where `is_trained(path)` is false, and trained where it is true.
pub fn freeze<M: Module>(module: M, is_trained: &dyn Fn(&str) -> bool) -> M {
    struct Freeze<'a> {
        path: Path,
        is_trained: &'a dyn Fn(&str) -> bool,
    }
    impl ModuleMapper for Freeze<'_> {
        fn enter_module(&mut self, name: &str, _container_type: &str) {
            self.path.push(name);
        }
        fn exit_module(&mut self, _name: &str, _container_type: &str) {
            self.path.pop();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.set_require_grad((self.is_trained)(&self.path.dotted()))
        }
    }
    module.map(&mut Freeze { path: Path::default(), is_trained })
}

/// Cuts every parameter to the indices of one dim that `range(path, shape)` gives; without one it stays as it is. The rest
/// is freed. Parameter ids and whether gradients are recorded stay.
///
/// # Panics
/// If a range lies outside its dim.
pub fn narrow<M: Module>(
    module: M,
    range: &dyn Fn(&str, &[usize]) -> Option<(usize, Range<usize>)>,
) -> M {
    struct Narrow<'a> {
        path: Path,
        range: &'a dyn Fn(&str, &[usize]) -> Option<(usize, Range<usize>)>,
    }
    impl ModuleMapper for Narrow<'_> {
        fn enter_module(&mut self, name: &str, _container_type: &str) {
            self.path.push(name);
        }
        fn exit_module(&mut self, _name: &str, _container_type: &str) {
            self.path.pop();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let cut = (self.range)(&self.path.dotted(), &param.val().dims());
            let Some((dim, range)) = cut else { return param };
            remake(param, |value| {
                let (device, dtype) = (value.device(), value.dtype());
                // A view would keep all of it.
                let part = value.narrow(dim, range.start, range.len()).into_data();
                Tensor::from_data(part, (&device, dtype))
            })
        }
    }
    module.map(&mut Narrow { path: Path::default(), range })
}

/// Puts another plain value into a parameter; its id and whether gradients are recorded stay as they were.
pub fn remake<const D: usize>(
    param: Param<Tensor<D>>,
    f: impl FnOnce(Tensor<D>) -> Tensor<D>,
) -> Param<Tensor<D>> {
    let (id, value, mapper) = param.consume();
    let (is_autodiff, is_trained) = (value.is_autodiff(), value.is_require_grad());
    let mut value = f(value.inner());
    if is_autodiff {
        value = Tensor::from_inner(value).set_require_grad(is_trained);
    }
    Param::from_mapped_value(id, value, mapper)
}

fn mapped<M: Module>(
    module: M,
    only_trained: bool,
    f: &mut dyn FnMut(&str, &[usize], Tensor<1>) -> Tensor<1>,
) -> M {
    struct Map<'a> {
        only_trained: bool,
        path: Path,
        f: &'a mut dyn FnMut(&str, &[usize], Tensor<1>) -> Tensor<1>,
    }
    impl ModuleMapper for Map<'_> {
        fn enter_module(&mut self, name: &str, _container_type: &str) {
            self.path.push(name);
        }
        fn exit_module(&mut self, _name: &str, _container_type: &str) {
            self.path.pop();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            if self.only_trained && is_frozen(&param.val()) {
                return param;
            }
            let path = self.path.dotted();
            remake(param, |value| {
                let dims = value.dims();
                let n: usize = dims.iter().product();
                let flat = (self.f)(&path, &dims, value.reshape([n]));
                assert_eq!(flat.dims(), [n], "{path} has {n} elements and must keep them");
                flat.inner().reshape(dims)
            })
        }
    }
    module.map(&mut Map { only_trained, path: Path::default(), f })
}

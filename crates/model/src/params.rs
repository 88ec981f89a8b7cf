//! Walking a model's parameters: by path, in visit order, flat.

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

/// Path and shape of every parameter of a module, in visit order.
pub(crate) fn list(module: &impl Module) -> Vec<ParamInfo> {
    struct List {
        path: Path,
        infos: Vec<ParamInfo>,
    }
    impl ModuleVisitor for List {
        fn enter_module(&mut self, name: &str, _container_type: &str) {
            self.path.push(name);
        }
        fn exit_module(&mut self, _name: &str, _container_type: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let shape = param.val().dims().to_vec();
            self.infos.push(ParamInfo { path: self.path.dotted(), shape });
        }
    }
    let mut list = List { path: Path::default(), infos: Vec::new() };
    module.visit(&mut list);
    list.infos
}

/// Calls `f(path, shape, values)` for every parameter of a module, in visit order.
///
/// `values` is flat, row-major and plain: no gradient is recorded. It shares the parameter's memory where the backend can.
pub fn flat(module: &impl Module, f: &mut dyn FnMut(&str, &[usize], Tensor<1>)) {
    struct Flat<'a> {
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
            let values = param.val().inner();
            let dims = values.dims();
            (self.f)(&self.path.dotted(), &dims, values.reshape([dims.iter().product::<usize>()]));
        }
    }
    module.visit(&mut Flat { path: Path::default(), f });
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
    struct Map<'a> {
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
            let (id, value, mapper) = param.consume();
            let (is_autodiff, is_trained) = (value.is_autodiff(), value.is_require_grad());
            let dims = value.dims();
            let n: usize = dims.iter().product();
            let path = self.path.dotted();
            let flat = (self.f)(&path, &dims, value.inner().reshape([n]));
            assert_eq!(flat.dims(), [n], "{path} has {n} elements and must keep them");
            let mut value: Tensor<D> = flat.inner().reshape(dims);
            if is_autodiff {
                value = Tensor::from_inner(value).set_require_grad(is_trained);
            }
            Param::from_mapped_value(id, value, mapper)
        }
    }
    module.map(&mut Map { path: Path::default(), f })
}

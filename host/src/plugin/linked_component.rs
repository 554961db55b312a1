//! A compiled component with what it imports put in, ready to be instantiated, and where in it the functions of its world are. What a
//! component may export and import is decided here, once; nothing here runs a guest.

use wasmtime::component::types::{ComponentInstance, ComponentItem};
use wasmtime::component::{
    ComponentExportIndex, ComponentNamedList, InstancePre, Lift, Linker, Lower,
};

use super::engine::{Component, Engine};
use super::error::LoadError;
use super::guest_state::GuestState;
use super::{abi, imports};
use crate::domain::PluginWorld;

const FILTERING: &str = "tidegate:plugin/filtering@0.1.0";
const TRANSFORMING: &str = "tidegate:plugin/transforming@0.1.0";

/// A component that can be instantiated.
pub(super) struct LinkedComponent {
    pub(super) world: PluginWorld,
    pub(super) pre: InstancePre<GuestState>,
    pub(super) exports: Exports,
}

/// Where its functions are.
pub(super) struct Exports {
    pub(super) configure: ComponentExportIndex,
    pub(super) release: ComponentExportIndex,
    /// `evaluate` of a filter, `apply` of a transform.
    pub(super) run: ComponentExportIndex,
}

impl LinkedComponent {
    /// Checks what a component is and links it.
    ///
    /// # Errors
    ///
    /// It is of no world, or imports what no plugin gets.
    pub(super) fn link(engine: &Engine, component: &Component) -> Result<Self, LoadError> {
        let world = world(component)?;
        let exports = match world {
            PluginWorld::Filter => filter_exports(component)?,
            PluginWorld::Transform => transform_exports(component)?,
        };
        let mut linker = Linker::new(engine);
        imports::link(&mut linker, component).map_err(|refusal| match refusal {
            Ok(names) => LoadError::Imports(names),
            Err(error) => LoadError::Link(format!("{error:#}")),
        })?;
        let pre = linker
            .instantiate_pre(component)
            .map_err(|error| LoadError::Link(format!("{error:#}")))?;
        Ok(Self {
            world,
            pre,
            exports,
        })
    }
}

fn world(component: &Component) -> Result<PluginWorld, LoadError> {
    let engine = component.engine().clone();
    let ty = component.component_type();
    let names: Vec<String> = ty
        .exports(&engine)
        .map(|(name, _)| name.to_owned())
        .collect();
    let has = |interface: &str| {
        let (interface, _) = interface.split_once('@').unwrap_or((interface, ""));
        names
            .iter()
            .any(|name| name.split('@').next() == Some(interface))
    };
    match (has(FILTERING), has(TRANSFORMING)) {
        (true, false) => Ok(PluginWorld::Filter),
        (false, true) => Ok(PluginWorld::Transform),
        (true, true) => Err(LoadError::BothWorlds),
        (false, false) => Err(LoadError::NoWorld(names)),
    }
}

fn filter_exports(component: &Component) -> Result<Exports, LoadError> {
    let interface = Interface::find(component, FILTERING)?;
    Ok(Exports {
        configure: interface
            .function::<abi::ConfigureParams<'static>, abi::Configured>("configure")?,
        release: interface.function::<abi::ReleaseParams, ()>("release")?,
        run: interface.function::<abi::EvaluateParams<'static>, abi::Evaluated>("evaluate")?,
    })
}

fn transform_exports(component: &Component) -> Result<Exports, LoadError> {
    let interface = Interface::find(component, TRANSFORMING)?;
    Ok(Exports {
        configure: interface
            .function::<abi::ConfigureParams<'static>, abi::Configured>("configure")?,
        release: interface.function::<abi::ReleaseParams, ()>("release")?,
        run: interface.function::<abi::ApplyParams<'static>, abi::Applied>("apply")?,
    })
}

// An exported interface of a component.
struct Interface<'a> {
    component: &'a Component,
    name: &'static str,
    index: ComponentExportIndex,
    ty: ComponentInstance,
}

impl<'a> Interface<'a> {
    fn find(component: &'a Component, name: &'static str) -> Result<Self, LoadError> {
        // This lookup takes compatible versions, `@0.1.3` for `@0.1.0`.
        let missing = || LoadError::Export {
            name: name.into(),
            problem: "is missing".into(),
        };
        match component.get_export(None, name) {
            Some((ComponentItem::ComponentInstance(ty), index)) => Ok(Self {
                component,
                name,
                index,
                ty,
            }),
            Some(_) => Err(LoadError::Export {
                name: name.into(),
                problem: "is not an interface".into(),
            }),
            None => Err(missing()),
        }
    }

    fn function<P, R>(&self, function: &str) -> Result<ComponentExportIndex, LoadError>
    where
        P: ComponentNamedList + Lower,
        R: ComponentNamedList + Lift,
    {
        let refuse = |problem: String| LoadError::Export {
            name: format!("{}#{function}", self.name),
            problem,
        };
        let export = self.ty.get_export(self.component.engine(), function);
        let Some(ComponentItem::ComponentFunc(ty)) = export.map(|export| export.ty) else {
            return Err(refuse("is missing".into()));
        };
        ty.typecheck::<P, R>(&self.component.component_type().instance_type())
            .map_err(|error| refuse(format!("has another type than the WIT says: {error:#}")))?;
        self.component
            .get_export_index(Some(&self.index), function)
            .ok_or_else(|| refuse("is missing".into()))
    }
}

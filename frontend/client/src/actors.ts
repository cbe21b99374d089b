import { Actor, type ActorSubclass, type Agent } from "@icp-sdk/core/agent";
import type { Principal } from "@icp-sdk/core/principal";
import * as agent from "./generated/agent.did.ts";
import * as factory from "./generated/agent-factory.did.ts";
import * as coordinator from "./generated/coordinator.did.ts";
import * as econ from "./generated/econ.did.ts";
import * as model from "./generated/model.did.ts";
import * as ui from "./generated/ui.did.ts";

/** The interface of each canister, by the name of its folder. */
export interface Services {
  agent: agent._SERVICE;
  "agent-factory": factory._SERVICE;
  coordinator: coordinator._SERVICE;
  econ: econ._SERVICE;
  model: model._SERVICE;
  ui: ui._SERVICE;
}

/** A canister of the suite. */
export type CanisterName = keyof Services;

const factories = {
  agent: agent.idlFactory,
  "agent-factory": factory.idlFactory,
  coordinator: coordinator.idlFactory,
  econ: econ.idlFactory,
  model: model.idlFactory,
  ui: ui.idlFactory,
};

/** An actor that calls the canister `canisterId`, which is one of kind `name`. */
export function createActor<Name extends CanisterName>(
  name: Name,
  canisterId: Principal | string,
  agent: Agent,
): ActorSubclass<Services[Name]> {
  return Actor.createActor<Services[Name]>(factories[name], { agent, canisterId });
}

import { Link } from "@tanstack/react-router";
import { hex } from "@ohms/client";
import { Loaded } from "../../components/Loaded.tsx";
import { Badge, Command, Empty, More, PageHeading, Panel, Progress, Table, When } from "../../components/ui.tsx";
import { bytes, dateOf } from "../../format.ts";
import { useModels } from "../../queries.ts";
import { useCanisters } from "../../session.tsx";
import { modelState } from "../../words.ts";

/** All models of the repository. */
export function ModelsPage() {
  const models = useModels();
  const { id } = useCanisters();
  return (
    <>
      <PageHeading title="Models" lead="What has been compressed and uploaded. Agents load what is active." />
      <div className="grid gap-4">
        <Panel>
          <Loaded query={models} lines={5}>
            {({ pages }) => {
              const all = pages.flatMap((page) => page.models);
              if (all.length === 0) return <Empty title="No models yet">Compress one and upload it, as below.</Empty>;
              return (
                <>
                  <Table
                    label="Models"
                    rows={all}
                    keyOf={(model) => hex(model.model_id)}
                    columns={[
                      {
                        title: "Name",
                        cell: (model) => (
                          <Link to="/admin/models/$model" params={{ model: hex(model.model_id) }} className="underline underline-offset-2">
                            {model.name}
                          </Link>
                        ),
                      },
                      { title: "Version", wide: true, cell: (model) => model.version },
                      {
                        title: "State",
                        cell: (model) => {
                          const state = modelState(model);
                          return (
                            <>
                              <Badge tone={state.tone} busy={state.busy ?? false}>
                                {state.words}
                              </Badge>
                              {model.missing > 0 && <Progress done={model.shards - model.missing} of={model.shards} label={`${model.shards - model.missing} of ${model.shards} parts`} />}
                            </>
                          );
                        },
                      },
                      { title: "Size", right: true, cell: (model) => bytes(model.bytes) },
                      { title: "Parts", right: true, wide: true, cell: (model) => model.shards },
                      { title: "Licence", wide: true, cell: (model) => model.license },
                      { title: "Begun", wide: true, cell: (model) => <When date={dateOf(model.created_at_ns)} /> },
                    ]}
                  />
                  <More shown={all.length} hasMore={models.hasNextPage} busy={models.isFetchingNextPage} onMore={() => void models.fetchNextPage()} />
                </>
              );
            }}
          </Loaded>
        </Panel>
        <Panel title="Upload a model">
          <Command
            lines={[
              "novaq compress <MODEL> -o <DIR> --bpw 2",
              `novaq upload <DIR> --network ${location.origin} --canister ${id("model")} --identity id.pem`,
            ]}
          />
        </Panel>
      </div>
    </>
  );
}

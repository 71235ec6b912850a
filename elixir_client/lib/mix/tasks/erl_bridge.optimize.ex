defmodule Mix.Tasks.ErlBridge.Optimize do
  @shortdoc "Optimizes a DSPy signature on files of rows and saves the program"

  @moduledoc """
  Optimizes a signature on rows in files and saves the program.

      mix erl_bridge.optimize --signature "question -> answer" --data rows.jsonl [options]
      mix erl_bridge.optimize workflow.yaml [options]

  The rows are maps with the signature's fields, in a JSON Lines, JSON, YAML or CSV file; what a
  CSV file has is all strings. A workflow is what `ErlBridge.Config` reads: each of its steps that
  is optimized becomes a program.

  `ErlBridge.Program.load/2` reads what is saved, for `ErlBridge.predict/4`.

  ## Options

    * `--out PATH` - where the program is saved: a file, `program.etf` unless told; with a workflow
      a folder for `STEP.etf`, `programs` unless told
    * `--timeout SECONDS` - how long an optimization may take
    * `--help` - this text

  Those that a workflow says itself:

    * `--signature TEXT` - in DSPy's notation
    * `--data FILE` - the rows for training
    * `--validation FILE` - the rows that candidates are scored on; those for training unless told
    * `--lm NAME` - the language model, `openai/gpt-4o-mini` or `ollama_chat/llama3.2` for example;
      unless told `local/nearest-demo`, which needs no network and understands nothing
    * `--optimizer NAME` - `bootstrap_few_shot` unless told
    * `--metric NAME` - `exact_match` unless told
    * `--module NAME` - a module of `ErlBridge.Modules` that needs no options: `predict`, `chain_of_thought`...
    * `--max-demos N` - how many answers of the model become demonstrations; for
      `labeled_few_shot`, how many rows do
    * `--seed N` - how the rows for training are shuffled

  ## Its end

  The status is 0 when all is done, 1 after an error and 2 when the command line is wrong.

  When the time is over, on Ctrl-C, `SIGTERM`, `SIGHUP` or `SIGQUIT`, the best program so far is
  saved, if there is one, and the status is 1. Ctrl-C pressed again ends at once, with status 130,
  and saves nothing. (Meanwhile it sends `SIGQUIT`, for the virtual machine keeps `SIGINT` to
  itself.)
  """

  use Mix.Task

  alias ErlBridge.{Config, DataFile, Error, Program, Progress, ProgressBar, Signals}
  alias ErlBridge.Optimization.Report

  @requirements ["app.start"]

  @switches [
    signature: :string,
    data: :string,
    validation: :string,
    lm: :string,
    optimizer: :string,
    metric: :string,
    module: :string,
    max_demos: :integer,
    seed: :integer,
    out: :string,
    timeout: :float,
    help: :boolean
  ]

  # What goes with a workflow, and what must be there without one.
  @with_workflow [:out, :timeout]
  @needed [:signature, :data]

  # What the command line calls that of which an error speaks.
  @places for {place, option} <- [
                {"signature", :signature},
                {"module", :module},
                {"config.optimizer", :optimizer},
                {"config.metric", :metric},
                {"config.max_demos", :max_demos},
                {"config.max_labeled_demos", :max_demos},
                {"config.seed", :seed},
                {"lm", :lm}
              ],
              do: {place, Mix.ErlBridge.flag(option)}

  @lm "local/nearest-demo"
  @file_out "program.etf"
  @folder_out "programs"

  @impl true
  def run(arguments) do
    case OptionParser.parse(arguments, strict: @switches) do
      {options, arguments, []} ->
        if options[:help], do: help(), else: optimize(arguments, options)

      {_options, _arguments, [invalid | _]} ->
        usage(Mix.ErlBridge.invalid(invalid, @switches))
    end
  end

  defp help, do: Mix.shell().info(@moduledoc)

  defp optimize(arguments, options) do
    check_timeout(options[:timeout])
    %{bridge: bridge_options, jobs: jobs} = plan(arguments, options)
    Enum.each(jobs, &check_place(&1.out))
    bridge = or_raise(ErlBridge.start_link([log_level: :none] ++ bridge_options))

    try do
      Enum.each(jobs, &work(bridge, &1, options[:timeout]))
    after
      ErlBridge.stop(bridge)
    end
  end

  ## What is to be done: jobs with a title, a signature, rows, options and a place for the program

  defp plan([], options) do
    with name when name != nil <- Enum.find(@needed, &(options[&1] == nil)),
         do: usage("#{Mix.ErlBridge.flag(name)} is missing")

    validation = options[:validation] && read_rows(options[:validation])

    job = %{
      title: options[:signature],
      signature: options[:signature],
      rows: read_rows(options[:data]),
      options: job_options(options, validation),
      places: [
        {"training_data", options[:data]},
        {"validation_data", options[:validation]} | @places
      ],
      out: Keyword.get(options, :out, @file_out)
    }

    %{bridge: [], jobs: [job]}
  end

  defp plan([path], options) do
    with [name | _] <- Keyword.keys(options) -- @with_workflow,
         do: usage("#{Mix.ErlBridge.flag(name)} is what the workflow says; leave it out")

    config = or_raise(Config.load(path))
    folder = Keyword.get(options, :out, @folder_out)

    case for %{optimize: [_ | _]} = step <- config.steps, do: step_job(step, folder) do
      [] ->
        Mix.raise("#{path}: no step is optimized: none has training_data, or optimization is off")

      jobs ->
        %{bridge: config.bridge, jobs: jobs}
    end
  end

  defp plan([_workflow, extra | _], _options), do: usage("unexpected argument #{extra}")

  defp job_options(options, validation) do
    [lm: @lm]
    |> Keyword.merge(Keyword.take(options, [:lm, :optimizer, :metric, :module]))
    |> Keyword.merge(if(validation, do: [validation_data: validation], else: []))
    |> Keyword.put(:config, config(options))
  end

  defp config(options) do
    most = if options[:optimizer] == "labeled_few_shot", do: :max_labeled_demos, else: :max_demos
    for {name, key} <- [max_demos: most, seed: :seed], options[name], do: {key, options[name]}
  end

  defp step_job(step, folder) do
    %{
      title: step.name,
      signature: step.signature,
      rows: step.training_data,
      options: step.optimize,
      places:
        for {place, key} <- [
              {"training_data", "training_data"},
              {"validation_data", "validation_data"},
              {"signature", "dspy_signature"}
            ] do
          {place, "#{step.path}.#{key}"}
        end,
      out: Path.join(folder, "#{step.name}.etf")
    }
  end

  defp read_rows(path) do
    case or_raise(DataFile.read(path)) do
      [_ | _] = rows -> rows
      [] -> Mix.raise("#{path}: expected at least one row, got none")
      _document -> Mix.raise("#{path}: expected a list of rows")
    end
  end

  # Before the work is done, not after it.
  defp check_place(path) do
    folder = Path.dirname(path)
    probe = Path.join(folder, ".erl_bridge-#{System.pid()}")

    with :ok <- made(File.mkdir_p(folder), path, "its folder cannot be made"),
         :ok <- made(File.write(probe, ""), path, "its folder cannot be written into") do
      File.rm(probe)
      if File.dir?(path), do: Mix.raise("#{path}: is a folder; name a file")
    end
  end

  defp made(:ok, _path, _what), do: :ok

  defp made({:error, reason}, path, what),
    do: Mix.raise("#{path}: #{what}: #{:file.format_error(reason)}")

  defp check_timeout(seconds) when is_nil(seconds) or seconds > 0, do: :ok
  defp check_timeout(_seconds), do: usage("--timeout: expected a number of seconds above 0")

  ## Doing it

  defp work(bridge, job, timeout) do
    validation = job.options[:validation_data]
    lm = job.options[:lm]

    Mix.shell().info(
      Report.head(job.title, length(job.rows), validation && length(validation), lm)
    )

    case run_job(bridge, job, timeout) do
      {:ok, result} ->
        or_raise(Program.save(result.program, job.out))
        Mix.shell().info(["\n", Report.result(result), "\n", Report.saved(job.out)])

      {:error, error} ->
        Mix.shell().info("")
        keep_best(error, job.out)
        Mix.raise(Enum.reduce(job.places, Exception.message(error), &say_place/2))
    end
  end

  defp run_job(bridge, job, timeout) do
    {:ok, bar} = ProgressBar.start_link()
    id = make_ref()

    options =
      job.options ++
        [
          id: id,
          timeout: if(timeout, do: max(round(timeout * 1000), 1), else: :infinity),
          on_progress: &Progress.show(bar, "optimize", &1)
        ]

    result =
      Signals.during(
        fn -> ErlBridge.optimize(bridge, job.signature, job.rows, options) end,
        fn _signal -> ErlBridge.cancel(bridge, id) end
      )

    ProgressBar.stop(bar)
    result
  end

  # "payload.training_data[4]: ..." is "rows.csv, row 5: ..." for who wrote the file.
  defp say_place({place, name}, message) do
    message =
      Regex.replace(~r/\bpayload\.#{place}\[(\d+)\]/, message, fn _all, index ->
        "#{name}, row #{String.to_integer(index) + 1}"
      end)

    Regex.replace(~r/\bpayload\.#{place}\b/, message, fn _all -> "#{name}" end)
  end

  defp keep_best(%Error{context: %{best: %{program: program} = best}}, path) do
    or_raise(Program.save(program, path))
    Mix.shell().info([Report.saved(path), Report.best(best)])
  end

  defp keep_best(_error, _path), do: :ok

  defp usage(what), do: Mix.raise("#{what}; see --help", exit_status: 2)

  defp or_raise(:ok), do: :ok
  defp or_raise({:ok, value}), do: value
  defp or_raise({:error, %Error{} = error}), do: Mix.raise(Exception.message(error))
end

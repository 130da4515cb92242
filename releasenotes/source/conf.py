project = 'kuryr-cilium release notes'
copyright = 'OpenStack contributors'
extensions = ['openstackdocstheme', 'reno.sphinxext']
openstackdocs_repo_name = 'openstack/kuryr-cilium'
openstackdocs_auto_name = False
openstackdocs_use_storyboard = False
html_theme = 'openstackdocs'

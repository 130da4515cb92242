project = 'kuryr-cilium'
copyright = 'OpenStack contributors'
extensions = ['openstackdocstheme', 'oslo_config.sphinxext',
              'oslo_config.sphinxconfiggen']
config_generator_config_file = [
    ('../../etc/oslo-config-generator/kuryr-cilium.conf',
     '_static/kuryr-cilium'),
]
openstackdocs_repo_name = 'openstack/kuryr-cilium'
openstackdocs_pdf_link = False
openstackdocs_auto_name = False
openstackdocs_use_storyboard = False
html_theme = 'openstackdocs'
pygments_style = 'native'
